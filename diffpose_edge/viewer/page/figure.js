// The person in 3D, as meshes whose places follow a frame. Camera axes (y down, z away) become the scene's (y up, z near).
const GHOST_RADIUS = 0.0035;
const BONE_RADIUS = 0.015;
const JOINT_RADIUS = 0.021;
const LEAST_DEVIATION = 0.001; // a flat ellipsoid has no normals to light it by

class Figure {
  constructor() {
    this.group = new lib.Group();
    this.meshes = [];
    const cylinder = new lib.CylinderGeometry(1, 1, 1, 14, 1);
    const thin = new lib.CylinderGeometry(1, 1, 1, 5, 1, true); // a few pixels wide, and there are N times as many
    const sphere = new lib.SphereGeometry(1, 24, 16);
    const lit = (options) => new lib.MeshStandardMaterial({ roughness: 0.55, metalness: 0, ...options });
    const many = (geometry, material, count, order = 0) => {
      const mesh = new lib.InstancedMesh(geometry, material, Math.max(1, count));
      mesh.count = count;
      mesh.frustumCulled = false;
      mesh.renderOrder = order;
      this.group.add(mesh);
      this.meshes.push(mesh);
      return mesh;
    };
    const B = meta.bones.length;
    const glass = { transparent: true, depthWrite: false };
    this.bones = many(cylinder, lit({}), B);
    this.balls = many(sphere, lit({}), J);
    this.context = many(thin, new lib.MeshBasicMaterial({ ...glass, opacity: 0.75 }), clip.context ? B : 0, 1);
    this.ghosts = many(thin, new lib.MeshBasicMaterial({ ...glass, opacity: 0.5 }), N * B, 2);
    this.ellipsoids = many(sphere, lit({ ...glass, opacity: 0.17, roughness: 0.9 }), clip.axes ? J : 0, 3);
    this.marked = many(sphere, lit({ ...glass, opacity: 0.42 }), 1, 4);
    this.shadow = many(thin, new lib.MeshBasicMaterial({ transparent: true, opacity: 0.16, color: 0x000000 }), B);
    const [a, b, d, s] = Array.from({ length: 4 }, () => new lib.Vector3());
    this.scratch = { m: new lib.Matrix4(), q: new lib.Quaternion(), a, b, d, s };
    this.up = new lib.Vector3(0, 1, 0);
    this.places = Array.from({ length: J }, () => new lib.Vector3());
    this.radius = meta.levels[0].radius;
    this.floor = -1;
    this.withShadow = true;
  }

  colour(colours) {
    const of = (side) => new lib.Color(colours[side]);
    const soft = new lib.Color(colours.soft);
    const accent = new lib.Color(colours.accent);
    meta.bones.forEach(([, j], b) => {
      this.bones.setColorAt(b, of(sides[j]));
      if (this.context.count) this.context.setColorAt(b, accent);
      for (let n = 0; n < N; n++) this.ghosts.setColorAt(n * meta.bones.length + b, of(sides[j]).lerp(soft, 0.45));
    });
    this.colours = colours;
    for (const mesh of [this.bones, this.context, this.ghosts]) if (mesh.instanceColor) mesh.instanceColor.needsUpdate = true;
    this.markJoint(null);
  }

  markJoint(joint) {
    for (let j = 0; j < J; j++) {
      const colour = new lib.Color(this.colours[j === joint ? "mark-fill" : sides[j]]);
      this.balls.setColorAt(j, colour);
      if (this.ellipsoids.count) this.ellipsoids.setColorAt(j, colour);
    }
    this.marked.material.color.set(this.colours["mark-fill"]);
    this.joint = joint;
    for (const mesh of [this.balls, this.ellipsoids]) if (mesh.instanceColor) mesh.instanceColor.needsUpdate = true;
  }

  // Put everything where frame `f` has it; returns whether there is a pose.
  pose(f) {
    this.group.visible = posed[f];
    if (!posed[f]) return false;
    const at = [0, 0, 0];
    for (let j = 0; j < J; j++) {
      point(clip.joints, f, j, at);
      this.places[j].set(at[0], -at[1], -at[2]);
    }
    const { m } = this.scratch;
    meta.bones.forEach(([i, j], b) => this._stretch(this.bones, b, this.places[i], this.places[j], BONE_RADIUS));
    this.places.forEach((place, j) => {
      const r = JOINT_RADIUS * (j === this.joint ? 1.6 : 1);
      this.balls.setMatrixAt(j, m.makeScale(r, r, r).setPosition(place));
    });
    this._shadow();
    if (this.ghosts.visible) for (let n = 0; n < N; n++) this._poseOf(this.ghosts, clip.samples, f, GHOST_RADIUS, n);
    if (this.context.count && this.context.visible) this._poseOf(this.context, clip.context, f, GHOST_RADIUS * 1.6);
    if (this.ellipsoids.count) {
      for (let j = 0; j < J; j++) {
        this._ellipsoid(f, j, m);
        // The marked joint's is drawn by a mesh of its own, less transparent.
        if (j === this.joint) this.marked.setMatrixAt(0, m);
        this.ellipsoids.setMatrixAt(j, j === this.joint ? m.makeScale(0, 0, 0) : m);
      }
    }
    this.marked.visible = this.ellipsoids.count > 0 && this.joint > ROOT && this.ellipsoids.visible;
    for (const mesh of this.meshes) mesh.instanceMatrix.needsUpdate = true;
    this.group.position.set(0, 0, 0);
    if (this.origin) {
      point3(clip.root, f, at);
      if (Number.isFinite(at[0])) this.group.position.set(at[0] - this.origin[0], -(at[1] - this.origin[1]), -(at[2] - this.origin[2]));
    }
    return true;
  }

  _poseOf(mesh, array, f, radius, n = 0) {
    const { a, b } = this.scratch;
    const p = [0, 0, 0];
    const q = [0, 0, 0];
    meta.bones.forEach(([i, j], k) => {
      point(array, f, i, p, n);
      point(array, f, j, q, n);
      this._stretch(mesh, n * meta.bones.length + k, a.set(p[0], -p[1], -p[2]), b.set(q[0], -q[1], -q[2]), radius);
    });
  }

  _stretch(mesh, index, from, to, radius) {
    const { m, q, d, s } = this.scratch;
    d.subVectors(to, from);
    const length = d.length() || 1e-6;
    q.setFromUnitVectors(this.up, d.divideScalar(length));
    mesh.setMatrixAt(index, m.compose(d.addVectors(from, to).multiplyScalar(0.5), q, s.set(radius, length, radius)));
  }

  // The unit sphere's matrix in the figure: its columns are the principal axes, at the radius that holds the chosen share.
  _ellipsoid(f, j, m) {
    const at = f * clip.axes.stride + j * 9;
    // The hip is the origin: nothing is uncertain there.
    if (j === ROOT || !Number.isFinite(clip.axes.get(at))) return m.makeScale(0, 0, 0);
    const e = m.identity().elements;
    for (let c = 0; c < 3; c++) {
      const axis = [clip.axes.get(at + c), -clip.axes.get(at + 3 + c), -clip.axes.get(at + 6 + c)];
      if (Math.hypot(...axis) > LEAST_DEVIATION) axis.forEach((value, i) => (e[4 * c + i] = value * this.radius));
      else e[5 * c] = LEAST_DEVIATION;
    }
    return m.setPosition(this.places[j]);
  }

  // The bones' shadow under a light from above: their matrices, pressed onto the floor.
  _shadow() {
    const { m } = this.scratch;
    this.shadow.visible = this.withShadow;
    if (!this.withShadow) return;
    const flat = new lib.Matrix4().makeScale(1, 0.001, 1).setPosition(0, this.floor, 0);
    for (let b = 0; b < meta.bones.length; b++) {
      this.bones.getMatrixAt(b, m);
      this.shadow.setMatrixAt(b, m.premultiply(flat));
    }
  }
}

function point3(array, f, out) {
  for (let i = 0; i < 3; i++) out[i] = array.get(f * 3 + i);
  return out;
}
