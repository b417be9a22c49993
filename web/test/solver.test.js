// The solver against vectors that tests/explorer/test_explorer_web.py wrote with Python's.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { Backend, OwnLane } from "../solver/backend.js";
import { answer, Calls } from "../solver/calls.js";
import { decompose } from "../solver/decompose.js";
import { solve } from "../solver/geodesic.js";
import { lineSearch } from "../solver/linesearch.js";
import { parsePack } from "../solver/pack.js";
import { largest, readOut, standardise } from "../solver/readout.js";
import { Solver } from "../solver/solver.js";
import { combine, cosine, dot, unit } from "../solver/vectors.js";

const read = (name) => readFileSync(new URL(name, import.meta.url));
const toy = JSON.parse(read("toy.json"));
const bytes = () => Uint8Array.from(read("toy.bin")).buffer;
const wasm = read("../build/kernel.wasm");
const DEFAULTS = { lambdaKurtosis: 0.3, lambdaFidelity: 1, threshold: 4, nChannels: 3 };

function assertClose(actual, wanted, tolerance, what) {
  assert.equal(actual.length, wanted.length, what);
  const size = Math.max(...Array.from(wanted, Math.abs));
  for (let i = 0; i < wanted.length; i++) {
    assert.ok(
      Math.abs(actual[i] - wanted[i]) <= tolerance * size,
      `${what}[${i}]: ${actual[i]}, wanted ${wanted[i]}`,
    );
  }
}

for (const [name, options] of [["WebAssembly", { wasm }], ["JavaScript", { wasm: null }]]) {
  describe(name, async () => {
    const pack = parsePack(bytes());
    const backend = await Backend.create(pack, options);
    const total = pack.weights.reduce((sum, x) => sum + x, 0);
    const p = pack.weights.map((x) => x / total);

    test("is what computes", () => assert.equal(backend.name, `${name}, no worker`));

    test("the gradient, the joint moments and the angle are Python's", async () => {
      for (let i = 0; i < toy.w.length; i++) {
        const s = unit(toy.w[i]);
        const mean = await backend.sample(p);
        const [m2, m4] = await backend.begin(s, dot(mean, s));
        const sums = await backend.advance(1, 0, m4 / m2);
        const slope = 4 / m2 ** 2 / (1 + Math.abs(m4 / m2 ** 2 - 3));
        const gradient = combine(slope, sums.subarray(0, s.length), -slope * sums[s.length], mean);
        assertClose(gradient, toy.gradient[i], 1e-4, "gradient");
        const moments = await backend.along(toy.direction[i], dot(mean, toy.direction[i]));
        assertClose(moments, toy.moments[i], 1e-4, "moments");
        const angle = lineSearch(moments, 1, dot(s, toy.direction[i]), DEFAULTS);
        assert.ok(Math.abs(angle - toy.angle[i]) < 1e-3, `${angle}, wanted ${toy.angle[i]}`);
      }
    });

    test("the iterations of the better climb are Python's", async () => {
      for (let i = 0; i < toy.w.length; i++) {
        const wanted = toy.first_steps[i];
        const seen = [];
        const options = { ...DEFAULTS, curvature: pack.curvature };
        const onIteration = (n, value) => seen.push(value);
        await solve(backend, toy.w[i], p, { ...options, onIteration });
        const begin = seen.findIndex((value) => Math.abs(value - wanted[0]) < 1e-4);
        assertClose(seen.slice(begin, begin + wanted.length), wanted, 1e-4, `F of neuron ${i}`);
      }
    });

    test("the channels are Python's", async () => {
      for (let i = 0; i < toy.w.length; i++) {
        const { channels } = await decompose(backend, Float32Array.from(toy.w[i]), DEFAULTS);
        channels.forEach((channel, c) => {
          assert.ok(cosine(channel.vector, toy.vectors[i][c]) > 0.9999, `neuron ${i}, channel ${c}`);
          assertClose([channel.kurtosis], [toy.kurtosis[i][c]], 1e-2, "kurtosis");
          assertClose([channel.objective], [toy.objective[i][c]], 1e-4, "objective");
          assertClose([channel.cosine], [toy.cosine[i][c]], 1e-3, "cosine");
          assertClose([channel.core], [toy.core[i][c]], 1e-3, "core");
          assert.equal(channel.tail, toy.tail[i][c]);
          assert.equal(channel.nMasked, toy.n_masked[i][c]);
          const common = channel.topIds.slice(0, 20).filter((id) => toy.top_ids[i][c].includes(id));
          assert.ok(common.length >= 18, `top tokens in common: ${common.length}`);
          assert.ok(channel.converged);
        });
      }
    });
  });
}

function firstTokens(n, kernel) {
  const pack = parsePack(bytes());
  const cut = { ...pack, dVocab: n, scale: pack.scale.slice(0, n), rows: pack.rows.slice(0, n * pack.stride) };
  return Backend.create(cut, { wasm: kernel });
}

test("both kernels do the same on a number of tokens that four does not divide", async () => {
  const results = [];
  for (const kernel of [wasm, null]) {
    const backend = await firstTokens(795, kernel);
    results.push(await backend.sample(new Float32Array(795).fill(1 / 795)));
  }
  assertClose(results[0], results[1], 1e-6, "mean vector");
});

test("the iterations of both climbs are counted, those of the better one returned", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  for (const w of toy.w) {
    const seen = [[], [], []];
    const onIteration = (channel, n) => seen[channel].push(n);
    const { channels } = await decompose(backend, Float32Array.from(w), { ...DEFAULTS, onIteration });
    channels.forEach(({ nIter }, c) => {
      if (channels[c - 1]?.nMasked === 0) return assert.deepEqual(seen[c], []); // solved already
      assert.deepEqual(seen[c], Array.from(seen[c], (_, i) => i + 1));
      assert.ok(seen[c].length > nIter && seen[c].length <= nIter + 9, `${seen[c].length}, ${nIter}`);
    });
  }
});

test("a neuron without tails climbs from where it is", async () => {
  const n = 55; // the two blocks alone: w projects onto one, and not onto the other
  const backend = await firstTokens(n, wasm);
  const w = Float32Array.from({ length: 24 }, (_, i) => (i === 0 ? 1 : 0));
  const p = new Float32Array(n).fill(1 / n);
  const mean = await backend.sample(p);
  const [m2] = await backend.begin(w, dot(mean, w));
  for (const side of [1, -1]) {
    assert.ok((await backend.towardsTail(side, 2 * Math.sqrt(m2))).every((x) => x === 0), "a tail");
  }
  const seen = [];
  const options = { ...DEFAULTS, onIteration: (k, value) => seen.push(value) };
  const { objective, converged } = await solve(backend, w, p, options);
  assert.ok(converged);
  assert.ok(objective > seen[0] + 0.01, `${objective}, from ${seen[0]}`);
});

test("what is solved is not solved again: a threshold leaves the first channel, a number all", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  const w = Float32Array.from(toy.w[0]);
  const known = new Map();
  const run = async (more) => {
    const climbed = new Set();
    const { channels } = await decompose(backend, w, { ...DEFAULTS, known, onIteration: (c) => climbed.add(c), ...more });
    return [channels, [...climbed]];
  };
  const [first, all] = await run({});
  const [again, none] = await run({ nChannels: 2 });
  const [moved, some] = await run({ threshold: 3.5 });
  const fresh = await decompose(backend, w, { ...DEFAULTS, threshold: 3.5 });
  assert.deepEqual([all, none, some], [[0, 1, 2], [], [1, 2]]);
  assert.deepEqual(again.map(({ vector }) => vector), first.slice(0, 2).map(({ vector }) => vector));
  assert.deepEqual(moved.map(({ vector }) => vector), fresh.channels.map(({ vector }) => vector));
});

test("a frame counts every token and names the furthest, over all lanes", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  await backend.begin(unit(toy.vectors[0][0]), 0);
  const { bins, far } = await backend.frame(1, 0.5);
  assert.equal(bins.reduce((sum, x) => sum + x, 0), 800);
  const logits = await backend.logits(unit(toy.vectors[0][0]));
  const furthest = largest(800, 1, (i) => Math.abs(logits[i]))[0];
  assert.equal(far[0][0], furthest);
});

/** Calls to something that answers, as to a worker; closed when the test ends. */
function callsTo(t, respond) {
  const { port1, port2 } = new MessageChannel();
  answer(port2, respond);
  const calls = new Calls(port1);
  t.after(() => calls.close());
  return calls;
}

test("the vocabulary in two lanes gives what it gives in one", async (t) => {
  const lane = new OwnLane();
  const other = callsTo(t, (method, args) => lane.call(method, args));
  const backend = await Backend.create(parsePack(bytes()), { wasm, others: [other] });
  assert.equal(backend.name, "WebAssembly, 2 workers");
  const w = Float32Array.from(toy.w[0]);
  const { channels } = await decompose(backend, w, DEFAULTS);
  channels.forEach(({ vector }, c) => assert.ok(cosine(vector, toy.vectors[0][c]) > 0.9999, `channel ${c}`));
});

test("a solver behind a port tells of its climbs and channels; a newer call waits for one that is stopped", async (t) => {
  const solver = new Solver(await Backend.create(parsePack(bytes()), { wasm }));
  const calls = callsTo(t, (method, args, context) => solver[method](...args, context));
  const wanted = { ...DEFAULTS, bin: 0.5 };
  const stop = new AbortController();
  const stopped = calls.call("decompose", [Float32Array.from(toy.w[1]), wanted], {
    signal: stop.signal,
    on: { climb: () => stop.abort() },
  });
  await assert.rejects(stopped, { name: "AbortError" });
  const heard = [];
  const on = {
    climb: (channel, nIter, frame) => heard.push([channel, nIter, frame.bins.reduce((sum, n) => sum + n, 0)]),
    channel: ({ vector }, c) => assert.ok(cosine(vector, toy.vectors[0][c]) > 0.9999, `channel ${c}`),
  };
  await calls.call("decompose", [Float32Array.from(toy.w[0]), wanted], { on });
  assert.deepEqual(heard[0], [0, 1, 800]);
  await assert.rejects(calls.call("decompose", [new Float32Array(24), wanted]), /zero or not finite/);
});

test("a run can be stopped", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  const stop = new AbortController();
  const run = decompose(backend, Float32Array.from(toy.w[0]), {
    ...DEFAULTS,
    signal: stop.signal,
    onIteration: () => stop.abort(),
  });
  await assert.rejects(run, { name: "AbortError" });
});

test("weights that are no numbers, or all zero, are refused", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  for (const w of [new Float32Array(24), new Float32Array(24).fill(NaN)]) {
    await assert.rejects(decompose(backend, w, DEFAULTS), /zero or not finite/);
  }
});

test("a threshold that masks everything is a clear error", async () => {
  const backend = await Backend.create(parsePack(bytes()), { wasm });
  const run = decompose(backend, Float32Array.from(toy.w[0]), { ...DEFAULTS, threshold: 1e-9 });
  await assert.rejects(run, /raise the threshold/);
});

test("a file that is cut short, empty or another is refused", () => {
  assert.throws(() => parsePack(bytes().slice(0, -16)), /cut short/);
  assert.throws(() => parsePack(new ArrayBuffer(0)), /empty/);
  assert.throws(() => parsePack(new ArrayBuffer(100)), /not one of/);
});

test("tokens keep their spaces and line ends", () => {
  const { tokens } = parsePack(bytes());
  assert.deepEqual([tokens[0], ...tokens.slice(-3)], [" token0", "\n", "é", "<b>"]);
});

test("population moments, excess kurtosis", () => {
  const { z, kurtosis, skewness } = standardise(Float32Array.of(0, 0, 0, 4));
  assertClose(z, [-1, -1, -1, 3].map((x) => x / Math.sqrt(3)), 1e-6, "z");
  assert.ok(Math.abs(kurtosis - (7 / 3 - 3)) < 1e-6);
  assert.ok(Math.abs(skewness - 2 / Math.sqrt(3)) < 1e-6);
});

test("the largest, in order, ties by number", () => {
  const scores = [1, 5, 3, 5, 2];
  assert.deepEqual(largest(5, 3, (i) => scores[i]), [1, 3, 2]);
});

test("a skewed channel has one tail, a straight one two; weight 0 is never named", () => {
  const weights = new Float32Array(400).fill(1);
  const settings = { threshold: 4, skewnessThreshold: 10 };
  const noise = Float32Array.from({ length: 400 }, (_, i) => Math.sin(i));
  const skewed = noise.slice();
  skewed[7] = 90;
  assert.equal(readOut(skewed, weights, settings).tail, 1);
  assert.deepEqual(readOut(skewed, weights, settings).inTail, [7]);
  assert.equal(readOut(skewed.map((x) => -x), weights, settings).tail, -1);
  const both = noise.slice();
  [both[7], both[8]] = [90, -90];
  assert.equal(readOut(both, weights, settings).tail, 0);
  weights[7] = 0;
  assert.ok(!readOut(both, weights, settings).topIds.slice(0, 10).includes(7));
});
