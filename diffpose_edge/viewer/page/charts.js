// What changes over the clip: uncertainty of each joint, latency, and the strip behind the scrubber.
class Chart {
  // series: [{label, values, side or colour, joint}], values with null where there is nothing.
  constructor(section, series) {
    this.host = section.querySelector(".chart");
    this.series = series;
    this.name = `${section.querySelector("h2").textContent}, ${section.querySelector(".card-head span").textContent}`;
    this.now = document.createElement("div");
    this.now.className = "now";
    new ResizeObserver(() => this._resize()).observe(this.host);
  }

  colour(colours) {
    this.plot?.destroy();
    this.colours = colours;
    const { width, height } = this.host.getBoundingClientRect();
    const axis = { stroke: colours.soft, grid: { stroke: colours.faint, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", gap: 3 };
    const seconds = (plot, values) => values.map((v) => `${v} s`);
    const measured = (plot, values) => values.map((v) => `${v}`);
    const points = { show: F === 1 };
    const options = {
      width,
      height,
      legend: { show: false },
      padding: [6, 10, 0, 0],
      scales: { x: { time: false }, y: { range: (plot, low, high) => [0, Math.max(high, 1e-3) * 1.06] } },
      axes: [{ ...axis, size: 22, values: seconds }, { ...axis, size: 40, values: measured }],
      focus: { alpha: 1 },
      cursor: { drag: { x: false, y: false, setScale: false }, focus: { prox: 14 }, x: false, y: false },
      series: [{}, ...this.series.map((one) => ({
        label: one.label,
        stroke: () => this._ink(one),
        width: one.joint == null ? 1.4 : 1.25,
        points,
      }))],
      hooks: { setSeries: [(plot, index) => this._focused(index)] },
    };
    this.plot = new lib.uPlot(options, [times, ...this.series.map((one) => one.values)], this.host);
    this.plot.over.append(this.now);
    this.plot.ctx.canvas.setAttribute("role", "img");
    this.plot.ctx.canvas.setAttribute("aria-label", this.name);
    const over = this.plot.over;
    const seek = (event) => player.seekTime(this.plot.posToVal(event.clientX - over.getBoundingClientRect().left, "x"));
    over.addEventListener("pointerdown", (event) => {
      over.setPointerCapture(event.pointerId);
      seek(event);
    });
    over.addEventListener("pointermove", (event) => event.buttons && seek(event));
    over.addEventListener("pointerleave", () => this.series[0].joint != null && player.point(null));
    this.follow();
    this.mark();
  }

  // The colour of a line, paler while another joint is pointed at.
  _ink(one) {
    const colour = this.colours[one.colour ?? one.side];
    return one.joint == null || player.joint == null || player.joint === ROOT || one.joint === player.joint ? colour : `${colour}30`;
  }

  follow() {
    if (!this.plot) return;
    this.now.style.left = `${this.plot.valToPos(times[player.frame], "x").toFixed(1)}px`;
  }

  // The line of the joint that is pointed at stands out.
  mark() {
    if (!this.plot || this.series[0].joint == null) return;
    this.plot.series.forEach((one, i) => i && (one.width = this.series[i - 1].joint === player.joint ? 2.6 : 1.25));
    this.plot.redraw(false);
  }

  _focused(index) {
    if (this.series[0].joint == null || !this.host.matches(":hover")) return;
    player.point(index == null ? null : this.series[index - 1].joint);
  }

  _resize() {
    const { width, height } = this.host.getBoundingClientRect();
    if (!this.plot || !width) return;
    this.plot.setSize({ width, height });
    this.follow();
  }
}

// The clip as a strip: mean uncertainty as an area, and hatched where there is no pose.
class Strip {
  constructor() {
    this.canvas = element("line-canvas");
    this.means = times.map((_, f) => {
      if (!uncertainty || !posed[f]) return null;
      const known = uncertainty.map((list) => list[f]).filter((value, j) => j !== ROOT && value != null);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    });
    this.most = this.means.reduce((most, value) => Math.max(most, value ?? 0), 0) || 1;
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
  }

  draw(colours = this.colours) {
    if (!colours) return;
    this.colours = colours;
    const { context: pen, width, height } = fitted(this.canvas);
    // As the range's thumb moves: its middle stays half its width from the ends.
    const x = (f) => 2 + (F > 1 ? (f / (F - 1)) * (width - 4) : 0);
    const half = F > 1 ? (width - 4) / (F - 1) / 2 : width / 2;
    pen.fillStyle = colours.accent;
    pen.globalAlpha = 0.35;
    for (let f = 0; f < F; f++) {
      const tall = this.means[f] == null ? (posed[f] && !uncertainty ? 0.3 : 0) : 0.9 * (this.means[f] / this.most);
      pen.fillRect(x(f) - half, height * (1 - tall), 2 * half + 0.4, height * tall);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = colours.warn;
    pen.lineWidth = 1;
    for (let f = 0; f < F; f++) {
      if (posed[f]) continue;
      let to = f;
      while (to + 1 < F && !posed[to + 1]) to++;
      pen.save();
      pen.beginPath();
      pen.rect(x(f) - half, 0, x(to) - x(f) + 2 * half, height);
      pen.clip();
      pen.beginPath();
      for (let at = x(f) - half - height; at < x(to) + half; at += 5) {
        pen.moveTo(at, height);
        pen.lineTo(at + height, 0);
      }
      pen.stroke();
      pen.restore();
      f = to;
    }
  }
}

function uncertaintyChart() {
  const section = element("uncertainty");
  const lines = uncertainty?.map((values, joint) => ({ label: meta.joints[joint], values, side: sides[joint], joint })).filter((one) => one.joint !== ROOT);
  if (lines) return new Chart(section, lines);
  section.querySelector(".chart").hidden = true;
  const said = section.querySelector(".said");
  said.hidden = false;
  said.textContent = "These results have no covariance: one sample of released weights says nothing of its spread.";
  return null;
}

function latencyChart() {
  const section = element("latency");
  const lines = [];
  if (clip.call_ms) lines.push({ label: "call", values: valuesOf((f) => clip.call_ms.get(f)), colour: "ink" });
  if (clip.step_ms) {
    const K = clip.step_ms.shape[1];
    const together = (f) => Array.from({ length: K }, (_, k) => clip.step_ms.get(f * K + k)).reduce((sum, ms) => sum + ms, 0);
    lines.push({ label: `its ${K} steps`, values: valuesOf(together), colour: "accent" });
  }
  if (!lines.length) {
    section.hidden = true;
    document.querySelector("main").classList.add("no-latency");
    return null;
  }
  const said = section.querySelector(".said");
  said.hidden = false;
  const sorted = (values) => values.filter((value) => value != null).sort((a, b) => a - b);
  const at = (values, share) => values[Math.round(share * (values.length - 1))];
  const parts = lines.map((one) => {
    const values = sorted(one.values);
    const span = document.createElement("span");
    span.append(Object.assign(document.createElement("b"), { textContent: one.label }), ` ${at(values, 0.5).toFixed(1)} (${at(values, 0.99).toFixed(1)})`);
    span.querySelector("b").style.color = `var(--${one.colour})`;
    return span;
  });
  said.append("Median (99 %): ", ...parts.flatMap((part, i) => (i ? [" · ", part] : [part])));
  const most = clip.call_frames ? Math.max(...Array.from({ length: F }, (_, f) => clip.call_frames.get(f))) : 1;
  if (most > 1) said.append(` · up to ${most} frames a call`);
  return new Chart(section, lines);
}

function valuesOf(get) {
  return times.map((_, f) => (Number.isFinite(get(f)) ? get(f) : null));
}
