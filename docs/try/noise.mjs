// The noise of torch: what torch.randn draws on the CPU for a seed, so that a seed means the same picture here.

// Mersenne Twister 19937: a function that gives the next 32 random bits.
function twister(seed) {
    const state = new Uint32Array(624);
    state[0] = seed % 2 ** 32;
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    let at = 624;
    return () => {
        if (at == 624) {
            for (let i = 0; i < 624; i++) {
                const bits = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
                state[i] = state[(i + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 && 0x9908b0df);
            }
            at = 0;
        }
        let bits = state[at++];
        bits ^= bits >>> 11;
        bits ^= (bits << 7) & 0x9d2c5680;
        bits ^= (bits << 15) & 0xefc60000;
        return (bits ^ (bits >>> 18)) >>> 0;
    };
}

// n >= 16 numbers of N(0, 1), which torch makes 16 at a time by Box and Muller's transform. What is left over is too
// few for that, so the last 16 are drawn again.
function normal(random, n) {
    const values = Float32Array.from({length: n}, () => (random() & 0xffffff) / 2 ** 24);
    const transform = (block) => {
        for (let i = 0; i < 8; i++) {
            const radius = Math.sqrt(-2 * Math.log(1 - block[i])), angle = 2 * Math.PI * block[i + 8];
            block[i] = radius * Math.cos(angle);
            block[i + 8] = radius * Math.sin(angle);
        }
    };
    for (let i = 0; i + 16 <= n; i += 16) transform(values.subarray(i, i + 16));
    if (n % 16) {
        const last = values.subarray(n - 16);
        for (let i = 0; i < 16; i++) last[i] = (random() & 0xffffff) / 2 ** 24;
        transform(last);
    }
    return values;
}

// As t2ilayers.models.sampling.noise draws it: n numbers, those beyond the truncation drawn again until none is left,
// which is what torch 2.13 does from a truncation of 0.4 on. A truncation of null cuts nothing.
export function noise(n, seed, truncation = null) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
        throw new Error(`seed must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, got ${seed}`);
    }
    if (truncation !== null && !(truncation >= 0.4)) {
        throw new Error(`truncation must be at least 0.4 in the browser, got ${truncation}`);
    }
    const random = twister(seed), values = normal(random, n);
    const beyond = (value) => truncation !== null && Math.abs(value) > truncation;
    while (values.some(beyond)) {
        const again = normal(random, n);
        values.forEach((value, i) => { if (beyond(value)) values[i] = again[i]; });
    }
    return values;
}
