// The numbers of the page. A value is a whole multiple of what its array's unit is worth; -32768 stands for "nothing".
const NOTHING = -32768;
const meta = JSON.parse(document.getElementById("meta").textContent);

const clip = (() => {
  const holder = document.getElementById("numbers");
  const text = atob(holder.textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  holder.remove(); // it would only take memory twice
  const kinds = { i2: Int16Array, i4: Int32Array, u1: Uint8Array };

  const arrays = {};
  for (const [name, at] of Object.entries(meta.arrays)) {
    const size = at.shape.reduce((product, n) => product * n, 1);
    const counted = new kinds[at.type](bytes.buffer, at.at, size);
    const missing = at.type === "i2" ? NOTHING : null;
    // The numbers of a frame lie together: `stride` of them.
    arrays[name] = {
      shape: at.shape,
      stride: size / at.shape[0],
      get: (i) => (counted[i] === missing ? NaN : counted[i] * at.worth),
    };
  }
  return arrays;
})();

const F = meta.frames;
const J = meta.joints.length;
const ROOT = 0;
const times = Array.from({ length: F }, (_, f) => clip.times.get(f));
const N = clip.samples ? clip.samples.shape[1] : 0;

// Three numbers of joint `j` in frame `f`; `n` counts poses within a frame (samples).
function point(array, f, j, out, n = 0) {
  const at = f * array.stride + (n * J + j) * 3;
  out[0] = array.get(at);
  out[1] = array.get(at + 1);
  out[2] = array.get(at + 2);
  return out;
}

const posed = Array.from({ length: F }, (_, f) => Number.isFinite(clip.joints.get(f * clip.joints.stride)));

// Standard deviations along the three principal axes, metres.
function deviations(f, j) {
  const at = f * clip.axes.stride + j * 9;
  return [0, 1, 2].map((c) => Math.hypot(clip.axes.get(at + c), clip.axes.get(at + 3 + c), clip.axes.get(at + 6 + c)));
}

// √trace Σ in millimetres, per joint a list over the frames; null where there is none, which a chart leaves open.
const uncertainty = clip.axes
  ? meta.joints.map((_, j) => times.map((_, f) => {
      const spread = 1000 * Math.hypot(...deviations(f, j));
      return Number.isFinite(spread) && posed[f] ? spread : null;
    }))
  : null;

function confidence(f, j) {
  return clip.confidence ? clip.confidence.get(f * J + j) : NaN;
}

const sides = meta.joints.map((name) => (name.startsWith("right") ? "right" : name.startsWith("left") ? "left" : "trunk"));
const still = matchMedia("(prefers-reduced-motion: reduce)");

// The page's colours, read anew when the system changes between light and dark.
function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["page", "card", "well", "ink", "soft", "line", "faint", "right", "left", "trunk", "mark", "mark-fill", "accent", "warn"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

const element = (id) => document.getElementById(id);

// A canvas as large as its place on the page, in the screen's own pixels; returns its context, scaled to CSS pixels.
function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
