// The 2D input: bones in the colours of their side, joints in the colour of their confidence, hollow where not seen.
const RAMP = ["#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcdf8d"].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const AROUND = 20; // frames over which the window's centre is averaged, so that it glides

function ofConfidence(share) {
  const at = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const mixed = RAMP[low].map((c, i) => Math.round(c + (RAMP[low + 1][i] - c) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

class Picture {
  constructor() {
    this.canvas = element("picture-canvas");
    this.follow = element("follow");
    this.unit = meta.image ? "px" : "";
    this._windows();
    this._key();
    this.follow.addEventListener("change", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => player.point(this._under(event)));
    this.canvas.addEventListener("pointerleave", () => player.point(null));
    this.canvas.addEventListener("click", (event) => {
      const joint = this._under(event);
      if (joint != null) player.keep(joint);
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
  }

  // Where joint j is in frame f: pixels if the image's size is known, else normalised; null where nobody knows.
  place(f, j) {
    const at = (f * J + j) * 2;
    const [u, v] = [clip.uv.get(at), clip.uv.get(at + 1)];
    if (!Number.isFinite(u) || !Number.isFinite(v)) return null;
    if (!meta.image) return [u, v];
    const [w, h] = meta.image;
    return [((u + 1) * w) / 2, ((v + h / w) * w) / 2];
  }

  seen(f, j) {
    return confidence(f, j) > 0;
  }

  // For each frame the centre of the person, averaged over its neighbours; and one width for all, so that sizes compare.
  _windows() {
    let side = 0;
    let box = [Infinity, Infinity, -Infinity, -Infinity];
    const centres = times.map((_, f) => {
      const points = meta.joints.map((_, j) => (this.seen(f, j) ? this.place(f, j) : null)).filter(Boolean);
      if (!points.length) return null;
      const xs = points.map((p) => p[0]);
      const ys = points.map((p) => p[1]);
      const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      side = Math.max(side, x1 - x0, y1 - y0);
      box = [Math.min(box[0], x0), Math.min(box[1], y0), Math.max(box[2], x1), Math.max(box[3], y1)];
      return [(x0 + x1) / 2, (y0 + y1) / 2];
    });
    this.side = (side || 1) * 1.22;
    this.whole = meta.image ? [0, 0, ...meta.image] : box.every(Number.isFinite) ? box : [-1, -1, 1, 1];
    this.centres = centres.map((_, f) => {
      const near = centres.slice(Math.max(0, f - AROUND), f + AROUND + 1).filter(Boolean);
      return near.length ? [0, 1].map((i) => near.reduce((sum, c) => sum + c[i], 0) / near.length) : null;
    });
  }

  _toCanvas(width, height) {
    const [x0, y0, x1, y1] = this.whole;
    const centre = this.follow.checked && this.centres[player.frame];
    const [cx, cy] = centre || [(x0 + x1) / 2, (y0 + y1) / 2];
    const scale = centre ? Math.min(width, height) / this.side : 0.94 * Math.min(width / (x1 - x0), height / (y1 - y0));
    return { scale, to: ([x, y]) => [width / 2 + (x - cx) * scale, height / 2 + (y - cy) * scale], cx, cy };
  }

  draw(colours = this.colours) {
    if (!colours) return;
    this.colours = colours;
    const f = player.frame;
    const { context: pen, width, height } = fitted(this.canvas);
    const { scale, to, cx, cy } = this._toCanvas(width, height);
    this._ruler(pen, width, height, scale, cx, cy, colours);
    const places = meta.joints.map((_, j) => this.place(f, j));
    this.drawn = places.map((place) => place && to(place));
    pen.lineCap = "round";
    pen.lineWidth = 4;
    for (const [i, j] of meta.bones) {
      if (!this.drawn[i] || !this.drawn[j] || !this.seen(f, i) || !this.seen(f, j)) continue;
      pen.strokeStyle = colours[sides[j]];
      pen.globalAlpha = 0.8;
      pen.beginPath();
      pen.moveTo(...this.drawn[i]);
      pen.lineTo(...this.drawn[j]);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    this.drawn.forEach((at, j) => at && this._joint(pen, at, f, j, colours));
    this._say(f, places);
  }

  _joint(pen, [x, y], f, j, colours) {
    const marked = j === player.joint;
    pen.beginPath();
    pen.arc(x, y, marked ? 8 : 5.5, 0, 2 * Math.PI);
    pen.lineWidth = marked ? 3 : this.seen(f, j) ? 0.9 : 1.6;
    pen.strokeStyle = marked ? colours.mark : this.seen(f, j) ? colours.ink : colours.soft;
    if (this.seen(f, j)) {
      pen.fillStyle = ofConfidence(meta.graded ? confidence(f, j) : 1);
      pen.fill();
    }
    pen.stroke();
    if (!marked) return;
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 4;
    pen.strokeStyle = colours.well;
    pen.fillStyle = colours.ink;
    const text = `${meta.joints[j]}  ${confidence(f, j).toFixed(2)}`;
    const wide = pen.measureText(text).width;
    const wanted = this.drawn[ROOT] && x < this.drawn[ROOT][0] ? x - 13 - wide : x + 13;
    const left = Math.max(6, Math.min(wanted, this.canvas.clientWidth - wide - 6));
    pen.strokeText(text, left, y - 10);
    pen.fillText(text, left, y - 10);
  }

  // The image's border, and lines at round coordinates with their numbers.
  _ruler(pen, width, height, scale, cx, cy, colours) {
    const per = 90 / scale;
    const power = 10 ** Math.floor(Math.log10(per));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= per);
    pen.font = "10px system-ui, sans-serif";
    pen.fillStyle = colours.soft;
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.globalAlpha = 0.6;
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const lines = (from, to, draw) => {
      for (let at = Math.ceil(from / step); at * step <= to; at++) draw(at * step, (at * step).toFixed(digits));
    };
    pen.beginPath();
    const [left, top] = [cx - width / 2 / scale, cy - height / 2 / scale];
    lines(left, left + width / scale, (x) => (pen.moveTo((x - left) * scale, 0), pen.lineTo((x - left) * scale, height)));
    lines(top, top + height / scale, (y) => (pen.moveTo(0, (y - top) * scale), pen.lineTo(width, (y - top) * scale)));
    pen.stroke();
    pen.globalAlpha = 1;
    lines(left, left + width / scale, (x, text) => pen.fillText(text, (x - left) * scale + 3, height - 5));
    lines(top, top + height / scale, (y, text) => (y - top) * scale < height - 20 && pen.fillText(text, 4, (y - top) * scale - 3));
    if (!meta.image) return;
    pen.strokeStyle = colours.soft;
    pen.strokeRect(-left * scale, -top * scale, meta.image[0] * scale, meta.image[1] * scale);
  }

  _under(event) {
    const box = this.canvas.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top, (j) => this.drawn && this.drawn[j]);
  }

  _key() {
    const key = element("picture-key");
    const add = (mark, text) => {
      const span = document.createElement("span");
      span.append(mark, text);
      key.append(span);
    };
    const mark = (name) => Object.assign(document.createElement("i"), { className: name });
    if (meta.graded) {
      const ramp = mark("ramp");
      ramp.style.background = `linear-gradient(90deg, ${RAMP.map((_, i) => ofConfidence(i / (RAMP.length - 1))).join(",")})`;
      add(ramp, "confidence 0 to 1");
    }
    add(mark("hollow"), "not seen");
  }

  _say(f, places) {
    const missing = meta.joints.filter((_, j) => !this.seen(f, j));
    const nowhere = places.every((place) => !place);
    const units = meta.image ? `Pixels of ${meta.image[0]} × ${meta.image[1]}.` : "Normalised: the image's width is 2.";
    const seen = missing.length === J || nowhere ? "Nobody found in this frame."
      : missing.length ? `Not seen: ${missing.join(", ")}.` : `All ${J} joints seen.`;
    element("picture-said").textContent = `${seen} ${units}`;
  }
}
