// What all panels follow: the frame that is shown, whether it moves on, and the joint that is pointed at or kept.
class Player extends EventTarget {
  constructor() {
    super();
    this.frame = 0;
    this.playing = false;
    this.speed = 1;
    this.pointed = null;
    this.kept = null;
  }

  get joint() {
    return this.pointed ?? this.kept;
  }

  seek(frame) {
    const wanted = Math.max(0, Math.min(F - 1, Math.round(frame)));
    if (wanted === this.frame) return;
    this.frame = wanted;
    this._began = null; // the clock goes on from here
    this._tell("frame");
  }

  seekTime(seconds) {
    this.seek(frameAt(seconds));
  }

  play(on) {
    if (on === this.playing || F < 2) return;
    this.playing = on;
    this._tell("playing");
    if (on) {
      if (this.frame === F - 1) this.seek(0);
      this._began = null;
      requestAnimationFrame((now) => this._tick(now));
    }
  }

  _tick(now) {
    if (!this.playing) return;
    if (this._began == null || this._speed !== this.speed) {
      this._began = now - (1000 * (times[this.frame] - times[0])) / this.speed;
      this._speed = this.speed;
    }
    const seconds = times[0] + ((now - this._began) * this.speed) / 1000;
    const last = times[F - 1] + (times[F - 1] - times[F - 2]);
    if (seconds >= last) {
      this._began = now;
      this._show(0);
    } else {
      this._show(frameAt(seconds));
    }
    requestAnimationFrame((next) => this._tick(next));
  }

  _show(frame) {
    if (frame === this.frame) return;
    this.frame = frame;
    this._tell("frame");
  }

  point(joint) {
    if (joint === this.pointed) return;
    this.pointed = joint;
    this._tell("joint");
  }

  keep(joint) {
    this.kept = joint === this.kept ? null : joint;
    this._tell("joint");
  }

  _tell(what) {
    this.dispatchEvent(new Event(what));
  }
}

// The last frame that is not later than `seconds`.
function frameAt(seconds) {
  let low = 0;
  let high = F - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= seconds + 1e-6) low = middle;
    else high = middle - 1;
  }
  return low;
}

const player = new Player();
