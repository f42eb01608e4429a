// Gymnasium's CartPole-v1 in plain JavaScript: its physics, and the small grey picture that an agent sees.
(() => {
  const LIMIT = { position: 2.4, angle: 12 * 2 * Math.PI / 360 };

  // One step of 0.02 s, by Euler's method. The state is [position, velocity, angle, angular velocity].
  function step([x, v, angle, turn], right) {
    const force = right ? 10 : -10, cos = Math.cos(angle), sin = Math.sin(angle);
    const push = (force + 0.05 * turn * turn * sin) / 1.1;
    const turning = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos * cos / 1.1));
    const speeding = push - 0.05 * turning * cos / 1.1;
    return [x + 0.02 * v, v + 0.02 * speeding, angle + 0.02 * turn, turn + 0.02 * turning];
  }
  const fallen = ([x, , angle]) => Math.abs(x) > LIMIT.position || Math.abs(angle) > LIMIT.angle;
  const start = () => Array.from({ length: 4 }, () => Math.random() * 0.1 - 0.05);

  // The frame is 600 x 400 pixels. Only a part around the cart changes; it is drawn in grey, row 0 at its bottom,
  // and shrunk by the filter that PyTorch calls bilinear with antialiasing.
  const WIDTH = 600, HEIGHT = 400, REACH = 40, LOW = 84, HIGH = 230, ROWS = HIGH - LOW, COLUMNS = 2 * REACH;
  const BROWN = 161, BLUE = 139, TRACK = 100, AXLE = 107;

  function filter(length, size) {
    const scale = length / size;
    return Array.from({ length: size }, (_, k) => {
      const middle = (k + 0.5) * scale;
      const first = Math.max(0, Math.floor(middle - scale + 0.5));
      const last = Math.min(length, Math.floor(middle + scale + 0.5)), weights = [];
      for (let j = first; j < last; j++) weights.push(Math.max(0, 1 - Math.abs((j + 0.5 - middle) / scale)));
      const sum = weights.reduce((a, b) => a + b);
      return { first, weights: weights.map((weight) => weight / sum) };
    });
  }

  class Picture {
    constructor(size = 84) {
      this.size = size;
      this.part = new Float32Array(ROWS * COLUMNS);
      this.across = filter(WIDTH, size);
      this.down = filter(HEIGHT, size);
      this.track = HEIGHT - 1 - TRACK;  // its row, from the top
      this.narrow = new Float32Array(ROWS * size);
      this.bytes = new Uint8Array(size * size);
    }

    // Draw the state of CartPole: bytes [size * size], the highest row first.
    draw([x, , angle]) {
      const { size, part, narrow } = this, middle = x * WIDTH / 4.8 + WIDTH / 2, left = Math.trunc(middle) - REACH;
      part.fill(255);
      const corner = (a, b) => [Math.trunc(a) - left, Math.trunc(b) - LOW];
      this.polygon([[-25, -15], [-25, 15], [25, 15], [25, -15]].map(([a, b]) => corner(a + middle, b + TRACK)), 0);
      const cos = Math.cos(-angle), sin = Math.sin(-angle);
      this.polygon([[-5, -5], [-5, 120], [5, 120], [5, -5]].map(
        ([a, b]) => corner(a * cos - b * sin + middle, a * sin + b * cos + AXLE + 0.5)), BROWN);
      this.disc(Math.trunc(middle) - left, AXLE - LOW, 5, BLUE);
      part.fill(0, (TRACK - LOW) * COLUMNS, (TRACK - LOW + 1) * COLUMNS);
      // First across: what differs from an empty row of 255, then down, from the top row of the frame.
      narrow.fill(0);
      for (let k = 0; k < size; k++) {
        const { first, weights } = this.across[k], from = Math.max(first, left);
        const to = Math.min(first + weights.length, left + COLUMNS);
        for (let row = 0; row < ROWS; row++) {
          if (row === TRACK - LOW) continue;
          let sum = 0;
          for (let j = from; j < to; j++) sum += weights[j - first] * (part[row * COLUMNS + j - left] - 255);
          narrow[row * size + k] = sum;
        }
        narrow[(TRACK - LOW) * size + k] = -255;  // the track runs through all columns
      }
      for (let k = 0; k < size; k++) {
        const { first, weights } = this.down[k];
        for (let column = 0; column < size; column++) {
          let sum = 255;
          for (let j = 0; j < weights.length; j++) {
            const row = HEIGHT - 1 - first - j - LOW;  // of the part
            if (row >= 0 && row < ROWS) sum += weights[j] * narrow[row * size + column];
          }
          this.bytes[k * size + column] = Math.floor(sum + 0.5);
        }
      }
      return this.bytes;
    }

    // Fill a convex polygon and smooth its edges: one pixel beyond an edge, nothing is left of the colour.
    polygon(corners, grey) {
      const xs = corners.map(([x]) => x), ys = corners.map(([, y]) => y);
      const turned = Math.sign(corners.reduce((sum, [x, y], k) => {
        const [u, v] = corners[(k + 1) % corners.length];
        return sum + x * v - u * y;
      }, 0));
      const edges = corners.map(([x, y], k) => {
        const [u, v] = corners[(k + 1) % corners.length], steep = Math.max(Math.abs(u - x), Math.abs(v - y)) || 1;
        return [x, y, turned * (v - y) / steep, turned * (x - u) / steep];
      });
      this.blend(Math.min(...xs) - 1, Math.max(...xs) + 1, Math.min(...ys) - 1, Math.max(...ys) + 1, grey, (x, y) => {
        let out = 0;  // distance along a row or a column, whichever an edge crosses more steeply
        for (const [a, b, u, v] of edges) out = Math.max(out, (x - a) * u + (y - b) * v);
        return 1 - out;
      });
    }
    disc(a, b, radius, grey) {
      this.blend(a - radius - 1, a + radius + 1, b - radius - 1, b + radius + 1, grey,
        (x, y) => radius + 1 - Math.hypot(x - a, y - b));
    }
    blend(left, right, bottom, top, grey, share) {
      for (let y = Math.max(0, bottom); y <= Math.min(ROWS - 1, top); y++) {
        for (let x = Math.max(0, left); x <= Math.min(COLUMNS - 1, right); x++) {
          const alpha = Math.min(1, share(x, y)), k = y * COLUMNS + x;
          if (alpha > 0) this.part[k] += alpha * (grey - this.part[k]);
        }
      }
    }
  }

  globalThis.recdqnCartPole = { step, fallen, start, Picture, SECONDS: 0.02 };
})();
