// What the views are made of: data, tokens, links, messages and downloads. No browser needed.
import assert from "node:assert/strict";
import { afterEach, describe, mock, test } from "node:test";
import { gzipSync } from "node:zlib";

import { fetchKept, gunzip } from "../engine/download.js";
import { KernelEngine } from "../engine/kernel.js";
import { isPossible, madeOtherwise, reasonNotToRotate } from "../view/controls.js";
import { matched, decodeFloats, encodeFloats, histogram, reconstruction, reconstructionByChance } from "../view/data.js";
import { sideInWords } from "../view/histogram.js";
import { readLink, writeLink } from "../view/link.js";
import { activationsOf, loss, rule } from "../view/passages.js";
import { asPython } from "../view/python.js";
import { searchEmbedded } from "../view/search.js";
import { inWords, reasonNotToSteer, towards } from "../view/steer.js";
import { inText } from "../view/strip.js";
import { concise, visible } from "../view/tokens.js";
import { pairs, tooFew, verdict, withKnown } from "../view/verdict.js";

const DEFAULTS = { lambda_kurtosis: 0.3, threshold: 4, solver: "geodesic", n_channels: 5 };
const PLACE = { layer: 25, kind: "out", index: 460 };

describe("tokens", () => {
  test("what cannot be seen is made visible, as in rotate_core/models/tokens.py", () => {
    const wanted = [
      [" until", "␣until"], ["\n\t", "⏎⇥"], ["", "∅"], ["\u200b", "<U+200B>"], ["\u0301a", "◌\u0301a"],
      ["\u00a0", "⍽"], ["😀", "😀"], ["<b>&", "<b>&"],
    ];
    for (const [token, shown] of wanted) assert.equal(visible(token), shown);
  });
  test("long runs are counted", () => assert.equal(concise("\n    if  "), "⏎␣×4if␣␣"));
});

describe("links", () => {
  test("say what differs from the defaults, and come back", () => {
    const settings = { ...DEFAULTS, threshold: 6 };
    const link = writeLink(PLACE, 2, settings, DEFAULTS);
    assert.equal(link, "#layer=25&kind=out&neuron=460&channel=3&threshold=6");
    assert.deepEqual(readLink(link, DEFAULTS), { ...PLACE, channel: 2, settings: { threshold: 6 }, refused: [] });
    for (const selected of [0, null]) assert.equal(readLink(writeLink(PLACE, selected, settings, DEFAULTS), DEFAULTS).channel, selected);
  });
  test("that are none are left alone", () => {
    for (const hash of ["", "#some-heading", "#layer=x&kind=out&neuron=1", "#layer=1&neuron=1"]) {
      assert.equal(readLink(hash, DEFAULTS), null);
    }
  });
  test("say what they cannot bring in", () => {
    const link = "#layer=1&kind=out&neuron=2&threshold=abc&evil=1&lambda_kurtosis=7&solver=geodesic&channel=x";
    const { settings, refused } = readLink(link, DEFAULTS, isPossible);
    assert.deepEqual(settings, { solver: "geodesic" });
    assert.deepEqual(refused, ["threshold=abc", "evil=1", "lambda_kurtosis=7", "channel=x"]);
  });
  test("become five lines of Python", () => {
    const python = { neurons: {}, vocabulary: {}, decompose: {}, defaults: DEFAULTS };
    assert.equal(
      asPython("smollm2-135m", PLACE, { ...DEFAULTS, lambda_kurtosis: 0.15 }, python),
      `from rotate_core import decompose, load_model
model = load_model("smollm2-135m")
neuron = model.neurons(layer=25, kind="out", indices=[460])
channels = decompose(neuron, model.vocabulary(layer=25), n_channels=5, lambda_kurtosis=0.15)
channels`,
    );
  });
  test("become Python with what has no slider, whatever the page starts from", () => {
    const python = {
      neurons: { fold_norm: true }, vocabulary: { side: "embedding", fold_norm: true },
      decompose: { restarts: 3, precondition: false, seed: 7 }, defaults: DEFAULTS,
    };
    const lines = asPython("m", PLACE, { ...DEFAULTS, threshold: 6 }, python).split("\n");
    assert.equal(lines[2], 'neuron = model.neurons(layer=25, kind="out", indices=[460], fold_norm=True)');
    assert.equal(
      lines[3],
      'channels = decompose(neuron, model.vocabulary(layer=25, side="embedding", fold_norm=True), ' +
        "n_channels=5, threshold=6, restarts=3, precondition=False, seed=7)",
    );
  });
});

describe("what was made otherwise", () => {
  test("is said to be", () => {
    assert.equal(madeOtherwise(DEFAULTS, DEFAULTS), "");
    assert.equal(
      madeOtherwise(DEFAULTS, { ...DEFAULTS, threshold: 6, solver: "householder" }),
      "The channels below were made with threshold 4.0, not 6.0; solver geodesic, not householder.",
    );
  });
  test("is not rotated by a page, and the page says why", () => {
    const engine = { file: { vocabulary: "unembedding" } };
    const state = { mode: "static", refusal: "", engine, stored: { vocabulary: "unembedding" } };
    assert.equal(reasonNotToRotate(state), "");
    assert.match(
      reasonNotToRotate({ ...state, stored: { vocabulary: "unembedding, norm folded in" } }),
      /norm folded in.*notebook only/,
    );
    assert.equal(reasonNotToRotate({ ...state, refusal: "restarts=3" }), "restarts=3");
    assert.equal(reasonNotToRotate({ ...state, refusal: "restarts=3", mode: "live" }), "");
  });
});

describe("data", () => {
  test("floats come out of base64", () => {
    const text = Buffer.from(Float32Array.of(1.5, -2).buffer).toString("base64");
    assert.deepEqual([...decodeFloats(text)], [1.5, -2]);
    assert.equal(encodeFloats(Float32Array.of(1.5, -2)), text);
  });
  test("a histogram counts all, from its lowest bin", () => {
    assert.deepEqual(histogram([-1, 0.2, 0.3, 0.6]), { from: -1, step: 0.5, counts: [1, 0, 2, 1] });
  });
  test("orthogonal halves make up the whole; a channel twice adds nothing", () => {
    const values = reconstruction([1, 1], [[1, 0], [2, 0], [0, 3]]);
    [Math.SQRT1_2, Math.SQRT1_2, 1].forEach((x, i) => assert.ok(Math.abs(values[i] - x) < 1e-12));
  });
  test("50 random directions at a cosine of 0.4 reconstruct to 0.95", () => {
    assert.ok(Math.abs(reconstructionByChance(new Array(50).fill(0.4))[49] - 0.951) < 1e-3);
  });
  test("each channel finds the stored one that it is, or else the closest", () => {
    const [a, b] = [{ vector: [1, 0] }, { vector: [0, 1] }];
    const [again, other] = matched([b, { vector: [1, 0.75] }], [a, b]);
    assert.deepEqual(again, { pair: 1, channel: 1, cosine: 1 });
    assert.deepEqual(other, { pair: null, channel: 0, cosine: 0.8 });
    assert.equal(matched([a], [])[0].pair, null);
  });
  test("a search finds parts of words, whole ones first, and ignores case and space", () => {
    const neurons = [{ ...PLACE, channels: [{ top: [[" You", -9]] }, { top: [["you", 20]] }, { top: [[" Yours", 30]] }] }];
    assert.deepEqual(searchEmbedded(neurons, "you ").map(({ channel }) => channel), [1, 0, 2]);
    assert.deepEqual(searchEmbedded(neurons, "our").map(({ channel }) => channel), [2]);
  });
});

describe("what is known of a channel", () => {
  const settings = { lambda_kurtosis: 0.3, n_channels: 2 };
  const stored = { made: settings, nNull: 32, channels: [{ p: 0.01, q: 0.04, score: 5 }, { p: 0.5, q: 0.8, score: 1 }] };
  const found = (made) => ({ made, nNull: 32, channels: [0, 1].map(() => ({ p: null, q: null, score: 3 })) });
  const matches = [{ pair: 1 }, { pair: null }];
  test("has three looks", () => {
    assert.deepEqual(stored.channels.map((channel) => verdict(channel, stored, 0.1)), ["own", "random"]);
    assert.equal(verdict({ p: null, q: null }, stored, 0.1), "untested");
    assert.equal(verdict({ p: 0.02, q: null }, stored, 0.1), "own");
  });
  test("too few random vectors cannot tell, and that is said", () => {
    assert.equal(verdict({ p: 0.25, q: null }, { nNull: 3 }, 0.1), "untested");
    assert.match(tooFew({ nNull: 3 }, 0.1), /Only 3 random vectors .* too few/);
    assert.match(tooFew({ nNull: 6 }, 0.1), /extrapolation/);
    assert.equal(tooFew({ nNull: 32 }, 0.1) + tooFew({ nNull: null }, 0.1), "");
  });
  test("is kept by a channel that is found again, at the stored settings alone", () => {
    const [again, other] = withKnown(found({ ...settings, n_channels: 4 }), stored, matches).channels;
    assert.deepEqual([again.q, again.score, other.q, other.score], [0.8, 1, null, 3]);
    const moved = withKnown(found({ ...settings, lambda_kurtosis: 0.4 }), stored, matches);
    assert.deepEqual(moved.channels.map(({ q }) => q), [null, null]);
  });
  test("is told one to one, the closest first; a reversed vector is another", () => {
    assert.deepEqual(pairs([[0.995, 0.2], [0.999, 0.2], [-1, 0.98]]), [null, 0, null]);
  });
  test("a neuron is told by the side that its furthest tokens are on", () => {
    const neuron = { kind: "out", positive: [[" a", 4]], negative: [[" run", -15], ["run", -12]] };
    assert.equal(sideInWords(neuron), "Active, it writes against ␣run run.");
    assert.match(sideInWords({ ...neuron, kind: "gate" }), /negative side/);
  });
});

describe("a neuron on text", () => {
  const passage = { title: "Adobe", peak: 1, tokens: [" mud", "-brick"] };
  const told = { text: "t, test", nTokens: 16000, nArticles: 40, nRandom: 20, scale: 0.5, passages: new Array(10).fill(passage) };
  test("has its activations passage by passage, with their signs", () => {
    const before = Buffer.from(Int16Array.of(1, -2, 300, -32767).buffer).toString("base64");
    assert.deepEqual(activationsOf(before, { ...told, passages: [passage, passage] }), [[0.5, -1], [150, -16383.5]]);
    assert.deepEqual(activationsOf("", { ...told, passages: [] }), []);
  });
  test("says how its passages were chosen, and where there are few or none", () => {
    assert.match(rule(told, 5), /16,000 tokens.* 5 largest positive and 5 largest negative .*picked for being extreme/);
    assert.match(rule(told, 10), /the neuron's 10 largest positive activations,/);
    assert.match(rule({ ...told, passages: [passage, passage], nArticles: 1 }, 1), /fewer than ten: the text has 1 article\.$/);
    assert.match(rule({ ...told, passages: [] }, 0), /^The neuron is never active on .*no passage/);
  });
  test("loses what a channel takes away, beside what random directions do", () => {
    const channels = [{ left: 0.34, random: 0.88 }, { left: -0.1, random: 0.9 }, { tokens: [" you"], writes: [1, -0.25, 0.75] }];
    const said = [0, 1, 2].map((k) => loss({ ...told, channels }, k));
    assert.match(said[0], /^Without channel 1, 34% .* left; without a random direction .*, 88% \(mean of 20\)\.$/);
    assert.match(said[1], /Without channel 2, −10% .* Below 0 its sign turns/);
    assert.match(said[2], /colours stay.*\+1\.00 towards ␣you .*; without channel 3, −0\.25; .* \+0\.75/);
  });
  test("is read as text: a space in front of a token is one", () => {
    assert.deepEqual([" mud", "-brick", " ", "\n"].map(inText), [[" ", "mud"], ["", "-brick"], ["", "␣"], ["", "⏎"]]);
  });
});

describe("steering", () => {
  const [up, down] = [{ top: [[" you", 9], ["you", 8]] }, { top: [[" not", -7], [" but", 6]] }];
  test("to the right is towards the furthest token, whatever the vector's sign", () => {
    assert.deepEqual([up, down, { top: [] }].map(towards), [1, -1, 1]);
  });
  test("is said in words, for a slider that is not seen", () => {
    assert.equal(inWords(0.25, up), "0.25 × the residual stream's length, towards ␣you you");
    assert.equal(inWords(-1, down), "1.00 × the residual stream's length, away from ␣not ␣but");
    assert.match(inWords(0, up), /as it is/);
  });
  test("takes a channel that is written, and one that is chosen", () => {
    const shown = { kind: "out", channels: [up] };
    assert.equal(reasonNotToSteer(shown, 0), "");
    assert.match(reasonNotToSteer(shown, null), /Choose a channel/);
    assert.match(reasonNotToSteer({ ...shown, kind: "gate" }, 0), /gate .* writes nothing/);
    assert.notEqual(reasonNotToSteer(null, 0), "");
  });
});

describe("the kernel", () => {
  function fake() {
    const model = { sent: [], on: (_, listener) => (model.answer = listener), off: () => {}, send: (m) => model.sent.push(m) };
    return [model, new KernelEngine(model)];
  }
  afterEach(() => mock.timers.reset());

  test("answers the request of that id, after its progress", async () => {
    const [model, engine] = fake();
    const seen = [];
    const answer = engine.request("decompose", { layer: 1 }, { onProgress: (x) => seen.push(x) });
    const { id } = model.sent[0];
    model.answer({ id: "another", type: "result" });
    model.answer({ id, type: "progress", fraction: 0.5 });
    model.answer({ id, type: "result", neuron: 7 });
    assert.equal((await answer).neuron, 7);
    assert.deepEqual(seen, [0.5]);
    assert.equal(model.sent[0].layer, 1);
  });
  test("says why it could not", async () => {
    const [model, engine] = fake();
    const answer = engine.request("decompose", {});
    model.answer({ id: model.sent[0].id, type: "error", text: "layer is 99" });
    await assert.rejects(answer, /layer is 99/);
  });
  test("is told to stop", async () => {
    const [model, engine] = fake();
    const stop = new AbortController();
    const answer = engine.request("decompose", {}, { signal: stop.signal });
    stop.abort();
    await assert.rejects(answer, { name: "AbortError" });
    assert.deepEqual(model.sent[1], { type: "cancel", id: model.sent[0].id });
  });
  test("that died is said to have", async () => {
    mock.timers.enable({ apis: ["setTimeout"] });
    const [, engine] = fake();
    const answer = engine.request("decompose", {});
    mock.timers.tick(30_001);
    await assert.rejects(answer, /has not answered for 30 seconds/);
  });
});

describe("a download", () => {
  const file = { url: "http://book/u.bin", bytes: 4, checksum: "abc" };
  const respond = (bytes, status = 200) =>
    mock.method(globalThis, "fetch", async () => new Response(Uint8Array.from(bytes), { status }));
  afterEach(() => mock.restoreAll());

  test("tells how far it is", async () => {
    const fetched = respond([1, 2, 3, 4]);
    const seen = [];
    const buffer = await fetchKept(file, { onProgress: (x) => seen.push(x) });
    assert.deepEqual([...new Uint8Array(buffer)], [1, 2, 3, 4]);
    assert.equal(seen.at(-1), 1);
    assert.equal(fetched.mock.calls[0].arguments[0], "http://book/u.bin?v=abc");
  });
  test("that is cut short, too long or refused is a clear error", async () => {
    respond([1, 2]);
    await assert.rejects(fetchKept(file), /cut short .* 2 of 4 bytes/);
    mock.restoreAll();
    respond([1, 2, 3, 4, 5]);
    await assert.rejects(fetchKept(file), /another version/);
    mock.restoreAll();
    respond([], 404);
    await assert.rejects(fetchKept(file), /answered 404/);
  });
  test("is unpacked, or said to be damaged", async () => {
    const packed = Uint8Array.from(gzipSync(Uint8Array.of(1, 2, 3)));
    assert.deepEqual([...new Uint8Array(await gunzip(packed.buffer))], [1, 2, 3]);
    await assert.rejects(gunzip(packed.slice(0, -9).buffer), /damaged/);
  });
  test("without a connection is a clear error", async () => {
    globalThis.location = { protocol: "https:" };
    mock.method(globalThis, "fetch", async () => Promise.reject(new TypeError("failed")));
    await assert.rejects(fetchKept(file), /could not be downloaded \(no connection\)/);
    delete globalThis.location;
  });
});
