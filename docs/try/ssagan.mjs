// SSA-GAN's text encoder and generator, as t2ilayers.encoders.text and t2ilayers.models.ssagan define them, in
// evaluation mode and for one caption. A map of C channels is a Float32Array of C planes of side x side values.

import {noise} from "./noise.mjs";
import {encode} from "./words.mjs";

const EPS = 1e-5;  // of torch's batch norm
const sigmoid = (value) => 1 / (1 + Math.exp(-value));
const relu = (value) => Math.max(0, value);
const leaky = (value) => Math.max(0.2 * value, value);

// The values of the 2^16 numbers of half precision.
const HALF = Float32Array.from({length: 2 ** 16}, (_, bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return bits >> 15 ? -size : size;
});
const READERS = {
    F16: (bytes) => {
        const bits = new Uint16Array(bytes), values = new Float32Array(bits.length);
        for (let i = 0; i < bits.length; i++) values[i] = HALF[bits[i]];
        return values;
    },
    F32: (bytes) => new Float32Array(bytes),
};

// The tensors of a model.safetensors by name, flat. Its header is JSON, behind 8 bytes that say how long it is.
export function readTensors(file) {
    const start = 8 + Number(new DataView(file).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(file.slice(8, start)));
    const tensors = {};
    for (const [name, {dtype, data_offsets: offsets}] of Object.entries(header)) {
        const read = READERS[dtype];  // other ones are counts of batches, which drawing does not need
        if (read) tensors[name] = read(file.slice(start + offsets[0], start + offsets[1]));
    }
    return tensors;
}

// Made of what the files of SSAGAN.save_pretrained hold: config.json, vocabulary.json and the tensors.
export class SSAGAN {
    constructor(config, vocabulary, tensors) {
        if (config.generator != "ssa" || vocabulary.tokenizer != "words") {
            const got = `${config.generator} and ${vocabulary.tokenizer}`;
            throw new Error(`a model must have the generator "ssa" and the tokenizer "words", got ${got}`);
        }
        this.config = config;
        this.words = vocabulary.words;
        this.tensors = tensors;
        this.sides = [];
        for (let side = 4; side <= config.image_size; side *= 2) this.sides.push(side);
    }

    layer(name) {
        return {weight: this.tensors[`${name}.weight`], bias: this.tensors[`${name}.bias`]};
    }

    // Image (3, S, S) in [-1, 1] and the masks used, one per stage, coarse to fine, in [0, 1]. A mask that is given
    // takes the place of the predicted one.
    generate(caption, {seed, truncation = null, masks = []}) {
        const sentence = this.encode(caption), used = [];
        let x = linear(noise(this.config.z_dim, seed, truncation), this.layer("generator.fc"));
        this.sides.forEach((side, i) => {
            const block = `generator.blocks.${i}`;
            used.push(masks[i] || this.predictMask(block, x, side));
            x = this.block(block, x, side, sentence, used[i]);
        });
        const image = convolve3(this.batchNorm("generator.to_image.0", x, leaky), this.layer("generator.to_image.2"));
        return {image: image.map(Math.tanh), masks: used};
    }

    // The sentence: the last hidden states of an LSTM forwards and of one backwards.
    encode(caption) {
        const table = this.tensors["text_encoder.embedding.weight"], width = table.length / this.words.length;
        const indices = encode(caption, this.words, this.config.max_words);
        const steps = indices.map((index) => table.subarray(index * width, (index + 1) * width));
        return Float32Array.of(...this.lstm("l0", steps), ...this.lstm("l0_reverse", steps.reverse()));
    }

    lstm(direction, steps) {
        const [input, recurrent] = ["ih", "hh"].map((kind) => ({
            weight: this.tensors[`text_encoder.rnn.weight_${kind}_${direction}`],
            bias: this.tensors[`text_encoder.rnn.bias_${kind}_${direction}`],
        }));
        const size = input.bias.length / 4, hidden = new Float32Array(size), cell = new Float32Array(size);
        for (const step of steps) {
            const gates = linear(step, input), more = linear(hidden, recurrent);
            const gate = (number, i) => gates[number * size + i] + more[number * size + i];
            for (let i = 0; i < size; i++) {
                cell[i] = sigmoid(gate(1, i)) * cell[i] + sigmoid(gate(0, i)) * Math.tanh(gate(2, i));
                hidden[i] = sigmoid(gate(3, i)) * Math.tanh(cell[i]);
            }
        }
        return hidden;
    }

    // As t2ilayers.layers.SSAConv: a residual that the text shapes where the mask says.
    block(name, x, side, sentence, mask) {
        const gate = this.tensors[`${name}.gamma`][0];
        let residual = convolve3(this.modulate(`${name}.norm1`, x, sentence, mask), this.layer(`${name}.conv1`));
        residual = convolve3(this.modulate(`${name}.norm2`, residual, sentence, mask), this.layer(`${name}.conv2`));
        const shortcut = this.layer(`${name}.shortcut`), kept = shortcut.weight ? convolve1(x, shortcut) : x;
        return enlarge(kept, residual.length / side ** 2, side).map((value, i) => value + gate * residual[i]);
    }

    // As t2ilayers.layers.MaskPredictor, enlarged to the side of its stage before the sigmoid.
    predictMask(name, x, side) {
        const [first, norm, , last] = [0, 1, 2, 3].map((i) => `${name}.mask_predictor.layers.${i}`);
        const hidden = this.batchNorm(norm, convolve3(x, this.layer(first)), relu);
        return bilinear(convolve1(hidden, this.layer(last)), side).map(sigmoid);
    }

    // Scale and shift of a batch norm in evaluation mode, per channel.
    statistics(name) {
        const [mean, variance] = ["mean", "var"].map((kind) => this.tensors[`${name}.running_${kind}`]);
        const {weight, bias} = this.layer(name);
        const scale = variance.map((value, c) => (weight ? weight[c] : 1) / Math.sqrt(value + EPS));
        return {scale, shift: mean.map((value, c) => (bias ? bias[c] : 0) - value * scale[c])};
    }

    batchNorm(name, x, activation) {
        const {scale, shift} = this.statistics(name), area = x.length / scale.length;
        return x.map((value, i) => activation(scale[Math.floor(i / area)] * value + shift[Math.floor(i / area)]));
    }

    // relu((1 + gamma m) BN(x) + beta m), at the side of the mask m: t2ilayers.ops.masked_affine_norm.
    modulate(name, x, sentence, mask) {
        const [gamma, beta] = ["gamma", "beta"].map((kind) =>
            linear(linear(sentence, this.layer(`${name}.${kind}.0`)).map(relu), this.layer(`${name}.${kind}.2`)));
        const {scale, shift} = this.statistics(`${name}.normalize`), area = mask.length;
        return enlarge(x, scale.length, Math.sqrt(area)).map((value, i) => {
            const c = Math.floor(i / area), m = mask[i % area];
            return relu((1 + gamma[c] * m) * (scale[c] * value + shift[c]) + beta[c] * m);
        });
    }
}

function linear(x, {weight, bias}) {
    const y = bias.slice();
    for (let row = 0, at = 0; row < y.length; row++) {
        let sum = 0;
        for (let i = 0; i < x.length; i++) sum += weight[at++] * x[i];
        y[row] += sum;
    }
    return y;
}

// 1x1 convolution.
function convolve1(x, {weight, bias}) {
    const channels = weight.length / bias.length, area = x.length / channels;
    const y = new Float32Array(bias.length * area);
    bias.forEach((shift, o) => {
        const plane = y.subarray(o * area, (o + 1) * area).fill(shift);
        for (let c = 0; c < channels; c++) {
            const factor = weight[o * channels + c], from = c * area;
            for (let p = 0; p < area; p++) plane[p] += factor * x[from + p];
        }
    });
    return y;
}

// 3x3 convolution with a margin of zeros: nearly all of the time. A plane with its margin is walked through as one
// line, so that the six values which the next place needs again stay in variables; what comes out between the end of a
// row and the start of the next is left behind.
function convolve3(x, {weight, bias}) {
    const channels = weight.length / bias.length / 9, side = Math.sqrt(x.length / channels), width = side + 2;
    const padded = new Float32Array(channels * width ** 2 + 2), line = new Float32Array(side * width);
    const y = new Float32Array(bias.length * side ** 2);
    for (let row = 0; row < channels * side; row++) {
        const to = Math.floor(row / side) * width ** 2 + (row % side + 1) * width + 1;
        padded.set(x.subarray(row * side, (row + 1) * side), to);
    }
    for (let o = 0; o < bias.length; o++) {
        line.fill(bias[o]);
        for (let c = 0; c < channels; c++) {
            let at = 9 * (o * channels + c), top = c * width ** 2, middle = top + width, bottom = middle + width;
            const a = weight[at++], b = weight[at++], d = weight[at++], e = weight[at++], f = weight[at++];
            const g = weight[at++], h = weight[at++], j = weight[at++], k = weight[at++];
            let t0 = padded[top++], t1 = padded[top++], m0 = padded[middle++], m1 = padded[middle++];
            let b0 = padded[bottom++], b1 = padded[bottom++];
            for (let p = 0; p < line.length; p++) {
                const t2 = padded[top++], m2 = padded[middle++], b2 = padded[bottom++];
                line[p] += a * t0 + b * t1 + d * t2 + e * m0 + f * m1 + g * m2 + h * b0 + j * b1 + k * b2;
                t0 = t1, t1 = t2, m0 = m1, m1 = m2, b0 = b1, b1 = b2;
            }
        }
        for (let row = 0; row < side; row++) {
            y.set(line.subarray(row * width, row * width + side), (o * side + row) * side);
        }
    }
    return y;
}

// Nearest neighbours, of all channels.
function enlarge(x, channels, side) {
    const before = Math.sqrt(x.length / channels), factor = side / before;
    if (factor == 1) return x;
    const y = new Float32Array(channels * side ** 2);
    for (let row = 0; row < channels * side; row++) {
        const from = Math.floor(row / factor) * before;
        for (let column = 0; column < side; column++) y[row * side + column] = x[from + Math.floor(column / factor)];
    }
    return y;
}

// One plane, its corners kept where they are (align_corners=True).
function bilinear(x, side) {
    const before = Math.sqrt(x.length), step = (before - 1) / (side - 1);
    return Float32Array.from({length: side ** 2}, (_, i) => {
        const u = (i % side) * step, v = Math.floor(i / side) * step;
        const left = Math.min(Math.floor(u), before - 2), top = Math.min(Math.floor(v), before - 2);
        const at = top * before + left, right = u - left, below = v - top;
        return (1 - below) * ((1 - right) * x[at] + right * x[at + 1])
            + below * ((1 - right) * x[at + before] + right * x[at + before + 1]);
    });
}
