// The 3D view: camera, light, floor, axes, and who is pointed at.
const VIEWS = { oblique: ["Oblique", [0.62, 0.3, 0.8]], front: ["Front", [0, 0.04, 1]], side: ["Side", [1, 0.04, 0]], top: ["Top", [0, 1, 0.001]] };
const GRID = 0.25;
const PICK_PIXELS = 20;

class Stage {
  constructor(host) {
    this.host = host;
    this.renderer = new lib.WebGLRenderer({ antialias: true, alpha: true });
    this.canvas = this.renderer.domElement;
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The 3D pose of this frame; arrow keys turn it");
    host.prepend(this.canvas);
    this.scene = new lib.Scene();
    this.camera = new lib.PerspectiveCamera(32, 1, 0.05, 80);
    this.controls = new lib.OrbitControls(this.camera, this.canvas);
    this.controls.enablePan = false;
    this.controls.minDistance = 0.5;
    this.controls.maxDistance = 30;
    this.figure = new Figure();
    this.scene.add(this.figure.group, new lib.HemisphereLight(0xffffff, 0x8a94a0, 1.9));
    const sun = new lib.DirectionalLight(0xffffff, 1.8);
    sun.position.set(1.5, 3, 2.5);
    this.scene.add(sun);
    const { low, high, reach } = extent();
    this.reach = reach;
    this.middle = (low + high) / 2;
    this.figure.floor = low - 0.03;
    this._floor();
    this._axes();
    this.controls.addEventListener("change", () => this.ask());
    this.controls.addEventListener("start", () => this._lookedFrom(null));
    this.canvas.addEventListener("pointermove", (event) => event.buttons === 0 && player.point(this._under(event)));
    this.canvas.addEventListener("pointerleave", () => player.point(null));
    this.canvas.addEventListener("pointerdown", (event) => (this.pressed = [event.clientX, event.clientY]));
    this.canvas.addEventListener("pointerup", (event) => this._clicked(event));
    this.canvas.addEventListener("keydown", (event) => this._turned(event));
    new ResizeObserver(() => this._resize()).observe(host);
    this.look("oblique", false);
  }

  // Draw once before the next repaint, however often it is asked for.
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    this.figure.pose(player.frame);
    this.renderer.render(this.scene, this.camera);
    this._label();
  }

  colour(colours) {
    this.figure.colour(colours);
    this.grid.material.color.set(colours.soft);
    this.figure.markJoint(player.joint);
    this.ask();
  }

  mark() {
    this.figure.markJoint(player.joint);
    this.ask();
  }

  look(name, moving = true) {
    const fits = Math.max(1, 0.95 / this.camera.aspect);
    const distance = ((this.spanned ?? this.reach) * fits * 1.12) / Math.tan((this.camera.fov * Math.PI) / 360);
    const to = new lib.Vector3(...VIEWS[name][1]).normalize().multiplyScalar(distance).add(new lib.Vector3(0, this.middle, 0));
    this.controls.target.set(0, this.middle, 0);
    this._lookedFrom(name);
    if (!moving || still.matches) {
      this.camera.position.copy(to);
      this.controls.update();
      this.ask();
      return;
    }
    const from = this.camera.position.clone().sub(this.controls.target);
    const goal = to.clone().sub(this.controls.target);
    const began = performance.now();
    const move = (now) => {
      if (this.view !== name) return; // somebody turned it meanwhile
      const share = Math.min(1, (now - began) / 350);
      const eased = share * share * (3 - 2 * share);
      const length = from.length() + (goal.length() - from.length()) * eased;
      this.camera.position.lerpVectors(from, goal, eased).setLength(length).add(this.controls.target);
      this.controls.update();
      this.ask();
      if (share < 1) requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
  }

  _lookedFrom(name) {
    this.view = name;
    for (const button of element("views").children) button.setAttribute("aria-pressed", String(button.value === name));
  }

  // Along the hip's way through the camera's frame, or with the hip held.
  followRoot(on) {
    this.figure.origin = on ? this.way.middle : null;
    this.figure.withShadow = !on;
    this.grid.visible = !on;
    this.path.visible = on;
    this.spanned = on ? this.reach + this.way.radius : this.reach;
    this.look(this.view ?? "oblique");
  }

  _floor() {
    const size = Math.ceil((this.reach * 1.5) / GRID) * GRID;
    const lines = [];
    for (let x = -size; x <= size + 1e-9; x += GRID) lines.push(x, 0, -size, x, 0, size, -size, 0, x, size, 0, x);
    const geometry = new lib.BufferGeometry().setAttribute("position", new lib.Float32BufferAttribute(lines, 3));
    this.grid = new lib.LineSegments(geometry, new lib.LineBasicMaterial({ transparent: true, opacity: 0.22, depthWrite: false }));
    this.grid.position.y = this.figure.floor - 0.002;
    this.scene.add(this.grid);
    if (!clip.root) return;
    this.way = wayOf();
    this.path = new lib.LineSegments(
      new lib.BufferGeometry().setAttribute("position", new lib.Float32BufferAttribute(this.way.lines, 3)),
      new lib.LineBasicMaterial({ color: 0x4cc2a5 }),
    );
    this.path.visible = false;
    this.scene.add(this.path);
  }

  _axes() {
    this.axes = new lib.Group();
    const directions = { x: ["#d43d3d", [1, 0, 0]], y: ["#2f9e44", [0, -1, 0]], z: ["#3b78e7", [0, 0, -1]] };
    for (const [name, [colour, direction]] of Object.entries(directions)) {
      const along = new lib.Vector3(...direction);
      const rod = new lib.Mesh(new lib.CylinderGeometry(0.005, 0.005, 0.3, 8), new lib.MeshBasicMaterial({ color: colour }));
      rod.quaternion.setFromUnitVectors(new lib.Vector3(0, 1, 0), along);
      rod.position.copy(along).multiplyScalar(0.15);
      const picture = document.createElement("canvas");
      picture.width = picture.height = 64;
      const pen = picture.getContext("2d");
      pen.font = "bold 50px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillStyle = colour;
      pen.fillText(name, 32, 32);
      const letter = new lib.Sprite(new lib.SpriteMaterial({ map: new lib.CanvasTexture(picture), depthTest: false }));
      letter.position.copy(along).multiplyScalar(0.36);
      letter.scale.setScalar(0.09);
      this.axes.add(rod, letter);
    }
    this.axes.visible = false;
    this.figure.group.add(this.axes);
  }

  _resize() {
    const { width, height } = this.host.getBoundingClientRect();
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio || 1, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    if (this.view) this.look(this.view, false);
    // At once: a canvas whose size changed is empty until it is drawn.
    this.draw();
  }

  _onScreen(j) {
    const { width, height } = this.host.getBoundingClientRect();
    const at = this.figure.places[j].clone().add(this.figure.group.position).project(this.camera);
    return [((at.x + 1) / 2) * width, ((1 - at.y) / 2) * height];
  }

  _under(event) {
    if (!posed[player.frame]) return null;
    const box = this.canvas.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top, (j) => this._onScreen(j));
  }

  _clicked(event) {
    if (!this.pressed || Math.hypot(event.clientX - this.pressed[0], event.clientY - this.pressed[1]) > 4) return;
    const joint = this._under(event);
    if (joint != null || player.kept != null) player.keep(joint ?? player.kept);
  }

  _turned(event) {
    const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!turn || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const away = this.camera.position.clone().sub(this.controls.target);
    away.applyAxisAngle(new lib.Vector3(0, 1, 0), -turn[0] * 0.13);
    const across = new lib.Vector3().crossVectors(this.figure.up, away).normalize();
    const steeper = away.clone().applyAxisAngle(across, -turn[1] * 0.1);
    if (Math.abs(steeper.clone().normalize().y) < 0.995) away.copy(steeper);
    this.camera.position.copy(this.controls.target).add(away);
    this._lookedFrom(null);
    this.controls.update();
    this.ask();
  }

  _label() {
    const label = element("joint-label");
    const j = player.joint;
    label.hidden = j == null || !posed[player.frame];
    if (label.hidden) return;
    const [x, y] = this._onScreen(j);
    const spread = uncertainty && uncertainty[j][player.frame];
    label.textContent = meta.joints[j] + (spread == null || j === ROOT ? "" : ` · ${spread.toFixed(0)} mm`);
    // Away from the body, as far as the view reaches.
    const wanted = x < this._onScreen(ROOT)[0] ? x - 14 - label.offsetWidth : x + 14;
    const left = Math.max(4, Math.min(wanted, this.host.clientWidth - label.offsetWidth - 4));
    Object.assign(label.dataset, { x, y });
    label.style.transform = `translate(${left.toFixed(1)}px, ${(y - 24).toFixed(1)}px)`;
  }
}

// The joint whose place is nearest to x, y and near enough, or null.
function nearest(x, y, place) {
  let best = null;
  let distance = PICK_PIXELS;
  for (let j = 0; j < J; j++) {
    const at = place(j);
    const away = at ? Math.hypot(at[0] - x, at[1] - y) : Infinity;
    if (away < distance) [best, distance] = [j, away];
  }
  return best;
}

// How far the person reaches over the clip, metres in the scene: the lowest and highest, and away from the middle.
function extent() {
  const lows = [];
  const highs = [];
  const wide = [];
  const at = [0, 0, 0];
  for (let f = 0; f < F; f++) {
    if (!posed[f]) continue;
    let [low, high, far] = [Infinity, -Infinity, 0];
    for (let j = 0; j < J; j++) {
      point(clip.joints, f, j, at);
      low = Math.min(low, -at[1]);
      high = Math.max(high, -at[1]);
      far = Math.max(far, Math.hypot(at[0], at[2]));
    }
    lows.push(low);
    highs.push(high);
    wide.push(far);
  }
  if (!lows.length) return { low: -1, high: 1, reach: 1 };
  const part = (list, share) => list.sort((a, b) => a - b)[Math.round(share * (list.length - 1))];
  // Hands held up for a moment belong into the view, a frame gone wrong does not.
  const low = part(lows, 0.02);
  const high = Math.min(part(highs, 1), 1.5 * part(highs, 0.9));
  return { low, high, reach: Math.max((high - low) / 2, part(wide, 0.98), 0.05) };
}

// The hip's way: its middle in the camera's frame, how far it leads from there, and its line in the scene.
function wayOf() {
  const points = [];
  for (let f = 0; f < F; f++) {
    const at = point3(clip.root, f, [0, 0, 0]);
    if (at.every(Number.isFinite)) points.push(at);
  }
  const middle = [0, 1, 2].map((i) => points.reduce((sum, p) => sum + p[i], 0) / Math.max(1, points.length));
  const placed = points.map((p) => [p[0] - middle[0], -(p[1] - middle[1]), -(p[2] - middle[2])]);
  const lines = placed.slice(1).flatMap((p, i) => [...placed[i], ...p]);
  return { middle, lines, radius: placed.reduce((most, p) => Math.max(most, Math.hypot(...p)), 0) };
}
