// The list of joints with their uncertainty at this frame, and the numbers of the one that is chosen.
class JointList {
  constructor() {
    this.list = element("joint-list");
    element("joints-unit").textContent = uncertainty ? "uncertainty, mm" : "";
    this.most = uncertainty ? Math.max(1, ...uncertainty.map((values) => values.reduce((most, v) => Math.max(most, v ?? 0), 0))) : 1;
    this.rows = meta.joints.map((name, j) => {
      const part = (kind, text = "") => Object.assign(document.createElement("span"), { className: kind, textContent: text });
      const button = document.createElement("button");
      button.type = "button";
      button.className = `side-${sides[j]}`;
      button.setAttribute("aria-pressed", "false");
      const [dot, bar, number, fill] = [part("dot"), part("bar"), part("number"), document.createElement("i")];
      fill.style.background = "currentColor";
      bar.append(fill);
      bar.style.visibility = uncertainty ? "visible" : "hidden";
      button.append(dot, part("name", name), bar, number);
      button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && player.point(j));
      button.addEventListener("pointerleave", () => player.point(null));
      button.addEventListener("focus", () => button.matches(":focus-visible") && player.point(j));
      button.addEventListener("blur", () => player.point(null));
      button.addEventListener("click", () => player.keep(j));
      const item = document.createElement("li");
      item.append(button);
      this.list.append(item);
      return { button, dot, fill, number };
    });
  }

  draw() {
    const f = player.frame;
    this.rows.forEach(({ dot, fill, number }, j) => {
      const seen = !clip.confidence || confidence(f, j) > 0;
      dot.style.background = seen ? "currentColor" : "transparent";
      dot.title = seen ? "seen" : "not seen";
      const spread = uncertainty?.[j][f];
      number.textContent = j === ROOT ? "origin" : spread == null ? "–" : spread.toFixed(0);
      fill.style.transform = `scaleX(${spread == null || j === ROOT ? 0 : spread / this.most})`;
    });
    this._detail();
  }

  mark() {
    this.rows.forEach(({ button }, j) => {
      button.classList.toggle("is-marked", j === player.joint);
      button.setAttribute("aria-pressed", String(j === player.kept));
    });
    this._detail();
  }

  _detail() {
    const j = player.joint;
    element("detail-title").textContent = j == null ? "No joint chosen" : meta.joints[j];
    element("detail-mark").textContent = j == null ? "" : j === player.kept ? "kept; click again to let go" : "";
    element("detail-said").hidden = j != null;
    const rows = j == null ? [] : numbersOf(player.frame, j);
    element("detail-rows").replaceChildren(...rows.map(([name, value]) => {
      const row = document.createElement("tr");
      row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: name }), Object.assign(document.createElement("td"), { textContent: value }));
      return row;
    }));
  }
}

// What is known of joint j in frame f, as lines of a table.
function numbersOf(f, j) {
  const mm = (values) => `${values.map((value) => (1000 * value).toFixed(0)).join(", ")} mm`;
  const rows = [];
  if (clip.uv) {
    const place = panels.picture.place(f, j);
    const digits = meta.image ? 1 : 4;
    rows.push(["in the image", place ? `${place.map((value) => value.toFixed(digits)).join(", ")}${meta.image ? " px" : ""}` : "not known"]);
  }
  if (clip.confidence) rows.push(["detector", !(confidence(f, j) > 0) ? "not seen" : meta.graded ? `confidence ${confidence(f, j).toFixed(2)}` : "seen"]);
  if (!posed[f]) return [...rows, ["pose", "none in this frame"]];
  const at = point(clip.joints, f, j, []);
  rows.push(["x, y, z", mm(at)]);
  if (j === ROOT) return [...rows, ["uncertainty", "none: it is the origin"]];
  if (uncertainty && uncertainty[j][f] != null) {
    rows.push(["uncertainty", `${uncertainty[j][f].toFixed(1)} mm`]);
    rows.push(["along its axes", mm(deviations(f, j).sort((a, b) => b - a))]);
  }
  if (N > 1) {
    const squares = Array.from({ length: N }, (_, n) => point(clip.samples, f, j, [], n).reduce((sum, value, i) => sum + (value - at[i]) ** 2, 0));
    rows.push([`spread of ${N} samples`, `${(1000 * Math.sqrt(squares.reduce((sum, value) => sum + value, 0) / N)).toFixed(1)} mm`]);
  }
  if (clip.context) {
    const from = point(clip.context, f, j, []);
    const root = point(clip.context, f, ROOT, []);
    rows.push(["from the encoder", mm([Math.hypot(...from.map((value, i) => value - root[i] - at[i]))])]);
  }
  return rows;
}
