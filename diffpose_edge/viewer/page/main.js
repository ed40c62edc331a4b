// Puts the panels together: what each shows on, and what keys, buttons and the address do.
const panels = {};

// What can be shown or not in the 3D view: [id, label, on at first, mesh], and why not where there is none.
function toggles(stage) {
  const { figure } = stage;
  const host = element("toggles");
  const add = (id, text, on, change) => {
    const label = Object.assign(document.createElement("label"), { className: "toggle" });
    const box = Object.assign(document.createElement("input"), { type: "checkbox", id: `show-${id}`, checked: on });
    box.addEventListener("change", () => {
      change(box.checked);
      stage.ask();
    });
    label.append(box, Object.assign(document.createElement("span"), { textContent: text }));
    host.append(label);
    change(on);
    return label;
  };
  if (N) add("samples", `${N} samples`, true, (on) => (figure.ghosts.visible = on));
  if (clip.axes) {
    add("ellipsoids", "Ellipsoids", true, (on) => (figure.ellipsoids.visible = on));
    const choice = document.createElement("select");
    choice.id = "level";
    choice.setAttribute("aria-label", "Share of the truth that an ellipsoid holds");
    for (const { share, radius } of meta.levels) choice.append(new Option(`${100 * share} %`, radius));
    choice.addEventListener("change", () => {
      figure.radius = Number(choice.value);
      stage.ask();
    });
    host.append(choice);
  }
  if (clip.context) add("context", "Encoder's pose", false, (on) => (figure.context.visible = on));
  add("axes", "Axes", false, (on) => (stage.axes.visible = on));
  if (clip.root) add("root", "Way of the hip", false, (on) => on !== Boolean(figure.origin) && stage.followRoot(on));
}

function views(stage) {
  for (const [name, [text]] of Object.entries(VIEWS)) {
    const button = Object.assign(document.createElement("button"), { type: "button", value: name, textContent: text });
    if (name === "front") button.title = "As the camera saw it";
    button.addEventListener("click", () => stage.look(name));
    element("views").append(button);
  }
}

function transport() {
  const scrubber = element("scrubber");
  scrubber.max = String(F - 1);
  scrubber.addEventListener("input", () => player.seek(Number(scrubber.value)));
  element("play").addEventListener("click", () => player.play(!player.playing));
  element("back").addEventListener("click", () => player.seek(player.frame - 1));
  element("on").addEventListener("click", () => player.seek(player.frame + 1));
  element("speed").addEventListener("change", (event) => (player.speed = Number(event.target.value)));
  for (const id of ["play", "back", "on", "scrubber"]) element(id).disabled = F < 2;
  player.addEventListener("playing", () => {
    element("play").classList.toggle("playing", player.playing);
    element("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  });
}

function clock() {
  const f = player.frame;
  const scrubber = element("scrubber");
  const number = clip.numbers.get(f);
  scrubber.value = String(f);
  scrubber.setAttribute("aria-valuetext", `frame ${number}, ${times[f].toFixed(2)} seconds${posed[f] ? "" : ", no pose"}`);
  const seconds = Object.assign(document.createElement("b"), { textContent: `${times[f].toFixed(2)} / ${times[F - 1].toFixed(2)} s` });
  const frame = Object.assign(document.createElement("span"), { textContent: `frame ${number} of ${clip.numbers.get(0)} to ${clip.numbers.get(F - 1)}` });
  element("clock").replaceChildren(seconds, frame);
}

function keys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const within = event.target.closest("select, input, button, a");
    // A control keeps its own keys; the scrubber's arrows already step.
    if (within && (event.key === " " || within.matches("select, input"))) return;
    const far = event.shiftKey ? 10 : 1;
    const act = {
      " ": () => player.play(!player.playing),
      ArrowLeft: () => player.seek(player.frame - far),
      ArrowRight: () => player.seek(player.frame + far),
      Home: () => player.seek(0),
      End: () => player.seek(F - 1),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

// "#frame=120&joint=right wrist&view=side" opens the page there; the frame is a number of the clip, and "joint=" lets go of one.
function fromAddress(stage) {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has("frame")) player.seek(times.findIndex((_, f) => clip.numbers.get(f) >= Number(asked.get("frame"))));
  const joint = meta.joints.indexOf(asked.get("joint"));
  if (asked.has("joint") && (joint < 0 ? null : joint) !== player.kept) player.keep(joint < 0 ? player.kept : joint);
  if (stage && VIEWS[asked.get("view")]) stage.look(asked.get("view"), false);
  for (const id of (asked.get("show") ?? "").split(",").filter(Boolean)) {
    const box = element(`show-${id.replace("-", "")}`);
    if (box && box.checked === id.startsWith("-")) box.click();
  }
}

function openStage() {
  try {
    return new Stage(element("stage-view"));
  } catch (error) {
    // The rest of the page is of use without it, and says why it is not there.
    element("stage-said").textContent = "The 3D view needs WebGL, which this browser does not give.";
    return null;
  }
}

function begin() {
  const first = posed.indexOf(true);
  if (first > 0) player.frame = first;
  const stage = openStage();
  if (stage) {
    views(stage);
    toggles(stage);
    element("stage-units").textContent = `Metres relative to the hip; squares of ${100 * GRID} cm. Thin lines: single samples.`;
  }
  panels.stage = stage;
  panels.picture = clip.uv ? new Picture() : null;
  if (!panels.picture) element("picture-said").textContent = "The keypoints were not given (--keypoints).";
  element("follow").closest("label").hidden = !clip.uv;
  panels.joints = new JointList();
  panels.charts = [uncertaintyChart(), latencyChart()].filter(Boolean);
  panels.strip = new Strip();
  transport();
  keys();

  const colour = () => {
    const colours = palette();
    stage?.colour(colours);
    panels.picture?.draw(colours);
    panels.charts.forEach((chart) => chart.colour(colours));
    panels.strip.draw(colours);
  };
  const frame = () => {
    stage?.ask();
    if (stage) element("stage-said").textContent = posed[player.frame] ? "" : "No pose: too few joints were seen.";
    panels.picture?.draw();
    panels.joints.draw();
    panels.charts.forEach((chart) => chart.follow());
    clock();
  };
  const joint = () => {
    stage?.mark();
    panels.picture?.draw();
    panels.joints.mark();
    panels.charts.forEach((chart) => chart.mark());
  };
  player.addEventListener("frame", frame);
  player.addEventListener("joint", joint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colour);
  addEventListener("hashchange", () => fromAddress(stage));
  colour();
  frame();
  joint();
  fromAddress(stage);
}

begin();
