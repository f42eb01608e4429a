// The live agent's networks in plain JavaScript: one step of one agent. Page and node both load it.
(() => {
  const half = (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
  };

  // Read the tensors of an agent: float16 numbers in base64. Where the kind is "whole", they are the factors of
  // the rows, and each weight is a whole number in the letters: "O" is 0, "P" is 1, and "{" stands for a backslash;
  // or, in larger alphabets, letter 256 is 0 and letter 257 is 1.
  function tensors(layout, data, letters) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
    const found = {}, next = () => half(view.getUint16(2 * at++, true));
    let at = 0, letter = 0;
    for (const [name, kind, ...shape] of layout) {
      const values = found[name] = new Float64Array(shape.reduce((a, b) => a * b, 1));
      if (kind === "float16") values.forEach((_, k) => { values[k] = next(); });
      else {
        const row = values.length / shape[0];
        for (let start = 0; start < values.length; start += row) {
          const factor = next();
          for (let k = start; k < start + row; k++) {
            const code = letters.charCodeAt(letter++);
            values[k] = (code > 127 ? code - 256 : (code === 123 ? 92 : code) - 79) * factor;
          }
        }
      }
    }
    return found;
  }

  // A matrix times a vector, plus a bias: every stride-th number of output, from at on. Four rows at a time share
  // what they read, and their sums do not wait for each other.
  function linear(weight, bias, input, output, at = 0, stride = 1) {
    const width = input.length, rows = bias.length, whole = rows - rows % 4;
    for (let i = 0; i < whole; i += 4, at += 4 * stride) {
      const a = i * width, b = a + width, c = b + width, d = c + width;
      let p = bias[i], q = bias[i + 1], r = bias[i + 2], s = bias[i + 3];
      for (let j = 0; j < width; j++) {
        const x = input[j];
        p += weight[a + j] * x;
        q += weight[b + j] * x;
        r += weight[c + j] * x;
        s += weight[d + j] * x;
      }
      output[at] = p;
      output[at + stride] = q;
      output[at + 2 * stride] = r;
      output[at + 3 * stride] = s;
    }
    for (let i = whole; i < rows; i++, at += stride) {
      let sum = bias[i];
      for (let j = 0, k = i * width; j < width; j++, k++) sum += weight[k] * input[j];
      output[at] = sum;
    }
    return output;
  }

  // A convolution without padding over [channels, side, side], followed by a ReLU. A patch of zeros, as in the white
  // of a picture, is not multiplied: its outputs are the biases.
  function convolve(weight, bias, input, channels, side, kernel, stride) {
    const width = Math.floor((side - kernel) / stride) + 1, size = width * width;
    const output = new Float64Array(bias.length * size), patch = new Float64Array(channels * kernel * kernel);
    for (let place = 0; place < size; place++) {
      const corner = Math.floor(place / width) * stride * side + place % width * stride;
      let empty = true;
      for (let c = 0, k = 0; c < channels; c++) {
        for (let u = 0; u < kernel; u++) {
          for (let v = 0, from = (c * side + u) * side + corner; v < kernel; v++, k++, from++) {
            patch[k] = input[from];
            if (patch[k] !== 0) empty = false;
          }
        }
      }
      if (empty) for (let o = 0; o < bias.length; o++) output[o * size + place] = bias[o];
      else linear(weight, bias, patch, output, place, size);
    }
    for (let k = 0; k < output.length; k++) if (output[k] < 0) output[k] = 0;
    return [output, width];
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  class Network {
    // description: see recdqn.book.live
    constructor(description) {
      this.about = description;
      this.weights = tensors(description.layout, description.data, description.letters);
      this.pixels = Boolean(description.convolutions);
      const { features, hidden, head } = description;
      this.embed = new Float64Array(features);
      this.gates = new Float64Array(4 * hidden);
      this.carried = new Float64Array(4 * hidden);
      this.units = new Float64Array(head);
      this.values = new Float64Array(2);
      this.wipe();
    }

    // Set the memory to zeros, as at the start of an episode.
    wipe() {
      this.h = new Float64Array(this.about.hidden);
      this.c = new Float64Array(this.about.hidden);
    }

    // Return the Q-values of left and right for a picture (bytes) or for [position, angle].
    step(seen) {
      const { embed, weights: w } = this;
      if (this.pixels) this.look(seen);
      else {
        const scaled = this.about.scale.map((scale, k) => Math.fround(seen[k]) * scale);
        linear(w.features_weight, w.features_bias, scaled, embed);
        for (let k = 0; k < embed.length; k++) embed[k] = Math.tanh(embed[k]);
      }
      const memory = this.about.hidden ? this.remember() : embed;
      linear(w.head_weight, w.head_bias, memory, this.units);
      for (let k = 0; k < this.units.length; k++) this.units[k] = Math.max(0, this.units[k]);
      return linear(w.value_weight, w.value_bias, this.units, this.values);
    }

    // Encode a picture: 4 x 4 patches as channels, convolutions, a linear layer, layer normalisation, ReLU.
    look(picture) {
      const { embed, about, weights: w } = this, size = about.size, side = size / 4;
      let input = new Float64Array(size * size), width = side, channels = 16;
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          const channel = 4 * (y % 4) + x % 4, row = Math.floor(y / 4), column = Math.floor(x / 4);
          input[(channel * side + row) * side + column] = (255 - picture[y * size + x]) * about.contrast / 255;
        }
      }
      about.convolutions.forEach(([kernel, stride], k) => {
        const bias = w[`convolution_${k}_bias`];
        [input, width] = convolve(w[`convolution_${k}_weight`], bias, input, channels, width, kernel, stride);
        channels = bias.length;
      });
      linear(w.features_weight, w.features_bias, input, embed);
      const mean = embed.reduce((a, b) => a + b) / embed.length;
      const variance = embed.reduce((sum, x) => sum + (x - mean) ** 2, 0) / embed.length;
      const factor = 1 / Math.sqrt(variance + 1e-5);
      for (let k = 0; k < embed.length; k++) {
        embed[k] = Math.max(0, (embed[k] - mean) * factor * w.normalise_weight[k] + w.normalise_bias[k]);
      }
    }

    // The LSTM, in PyTorch's order: input, forget, cell, output.
    remember() {
      const { h, c, gates, carried, weights: w } = this, n = h.length;
      linear(w.input_weight, w.input_bias, this.embed, gates);
      linear(w.state_weight, w.state_bias, h, carried);
      for (let k = 0; k < 4 * n; k++) gates[k] += carried[k];
      for (let k = 0; k < n; k++) {
        c[k] = sigmoid(gates[n + k]) * c[k] + sigmoid(gates[k]) * Math.tanh(gates[2 * n + k]);
        h[k] = sigmoid(gates[3 * n + k]) * Math.tanh(c[k]);
      }
      return h;
    }

    // The velocities of cart and pole that a linear map reads from the memory, or null where there is none.
    readout() {
      if (!this.about.readout) return null;
      return [0, 1].map((k) => this.about.readout.reduce(
        (sum, row, unit) => sum + row[k] * (unit < this.h.length ? this.h[unit] : 1), 0));
    }
  }

  const agents = {};
  // The files of weights call add, with descriptions by name.
  globalThis.recdqnAgents = {
    add: (made) => Object.assign(agents, made),
    open: (name) => new Network(agents[name]),
  };
})();
