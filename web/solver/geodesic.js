import { lineSearch, momentsAlong, objective } from "./linesearch.js";
import { combine, dot, norm, scaled, solveFor, tangent, unit } from "./vectors.js";

/** Of float32: a gain below it is lost. */
const ROUNDING = 2 ** -23;
/** Standard deviations beyond which a token is in the tail that a climb begins towards. */
const TAIL = 2;
/** Iterations after which the better of the two climbs goes on alone. */
const RACE = 8;
/** Iterations by the covariance alone, as if nothing pulled back to w: they find higher hills. */
const BOLD = 5;

/**
 * A climb on its way. The backend has its logits from before the last iteration, until they are moved.
 *
 * @typedef {object} Climb
 * @property {Float64Array} s current point on the unit sphere
 * @property {number} m2 second and fourth central moment of the logits there
 * @property {number} m4
 * @property {number} value F there
 * @property {number} gain what the last iteration added to F
 * @property {number} nIter iterations
 * @property {number} cos of the angle that the last iteration went by, and its sine
 * @property {number} sin
 * @property {Float64Array | undefined} d tangent search direction, carried along; none at first
 * @property {Float64Array} gOld the gradient and the preconditioned one that the last iteration went by
 * @property {Float64Array} pgOld
 * @property {boolean} ended
 * @property {boolean} converged
 */

/**
 * One channel of one neuron: preconditioned conjugate gradients on the sphere with an exact line
 * search, from the better of two beginnings. Step for step what rotate_core/rotation/sphere.py and
 * deflate.py do by default; only that a neuron which stalls where its gradient is not small gets no
 * kick, but is returned as not converged.
 *
 * @param {import("./backend.js").Backend} backend
 * @param {Float32Array} w the neuron
 * @param {Float32Array} p sample weights of the tokens, sum 1
 * @param {{lambdaKurtosis: number, lambdaFidelity: number, tolerance?: number,
 *   gradientTolerance?: number, maxIter?: number, curvature?: import("./pack.js").Pack["curvature"],
 *   signal?: AbortSignal, onIteration?: (n: number, value: number) => void,
 *   look?: (state: Climb) => Promise<void>
 * }} options onIteration gets the number of iterations so far, those of both climbs, and F; look is
 *   shown the points on the way, while the backend has their logits
 * @returns {Promise<{vector: Float64Array, objective: number, nIter: number, converged: boolean}>}
 *   nIter is the number of the better climb alone
 */
export async function solve(backend, w, p, options) {
  const mean = await backend.sample(p);
  let nSoFar = 0;
  const onIteration = (value) => options.onIteration?.(++nSoFar, value);
  const defaults = { tolerance: 1e-5, gradientTolerance: 3e-3, maxIter: 200 };
  const problem = { ...defaults, ...options, onIteration, backend, mean, w: unit(w) };

  const first = await beginAtTail(problem, 1);
  await climb(problem, first, RACE);
  let best = await beginAtTail(problem, -1);
  await climb(problem, best, RACE);
  if (first.value >= best.value) {
    best = first;
    await place(problem, best);
  }
  await climb(problem, best, Infinity);
  const { s, value, nIter, converged } = best;
  return { vector: scaled(s, norm(w)), objective: value, nIter, converged };
}

/**
 * A climb after its first iteration, which goes from w towards the columns of the tokens in one tail
 * of w's logits instead of along F's gradient. If the tail is empty, it is still at w: whatever this
 * iteration gained, the climb goes on.
 *
 * @returns {Promise<Climb>}
 */
async function beginAtTail(problem, side) {
  const { backend, mean, w } = problem;
  const state = { s: w, nIter: 0, ended: false };
  const [m2, m4] = await place(problem, state);
  if (!(m2 > 0)) throw new Error("This neuron's logits have no variance, so no kurtosis.");
  state.value = objective(m2, m4, 1, problem);
  const sums = await backend.towardsTail(side, TAIL * Math.sqrt(m2));
  const towards = lessMean(sums, mean);
  const { curvature } = problem; // of the whole sum, not of its tangent part as for gradients
  const g = tangent(curvature ? solveFor(curvature, towards) : towards, w);
  await advance({ ...problem, curvature: undefined }, state, g);
  return Object.assign(state, { d: undefined, gain: Infinity });
}

/** Lets the backend's logits be those of the climb's point; returns their second and fourth moment. */
async function place({ backend, mean }, state) {
  const moments = await backend.begin(state.s, dot(mean, state.s));
  [state.m2, state.m4] = moments;
  [state.cos, state.sin] = [1, 0];
  return moments;
}

/** Goes on until the climb is at its end, or has taken `last` iterations. */
async function climb(problem, state, last) {
  const { tolerance, gradientTolerance, maxIter } = problem;
  while (!state.ended && state.nIter < last) {
    const g = await gradient(problem, state);
    await problem.look?.(state);
    state.converged = state.gain < tolerance && norm(g) < gradientTolerance;
    const stalled = state.gain < Math.min(tolerance, ROUNDING);
    state.ended = state.converged || stalled || state.nIter >= maxIter;
    if (!state.ended) await advance(problem, state, g);
  }
}

/** Gradient of F along the sphere. The backend's logits move with the last iteration first. */
async function gradient({ backend, mean, w, lambdaKurtosis, lambdaFidelity }, { s, m2, m4, cos, sin }) {
  const sums = await backend.advance(cos, sin, m4 / m2);
  const slope = (4 * lambdaKurtosis) / (m2 * m2) / (1 + Math.abs(m4 / (m2 * m2) - 3));
  return tangent(combine(slope, lessMean(sums, mean), lambdaFidelity, w), s);
}

/** One iteration: choose a direction by the gradient g, go to its best point. */
async function advance(problem, state, g) {
  const { backend, mean, w, curvature, signal } = problem;
  signal?.throwIfAborted();
  const { s } = state;
  const pg = curvature ? tangent(solveFor(curvature, g, ...factors(problem, state)), s) : g;
  const d = state.d ? conjugate(pg, g, tangent(state.d, s), state.gOld, state.pgOld, s) : pg;
  const length = norm(d);
  const direction = scaled(d, 1 / Math.max(length, 1e-30));

  const moments = await backend.along(direction, dot(mean, direction));
  const [cosineS, cosineD] = [dot(w, s), dot(w, direction)];
  const t = lineSearch(moments, cosineS, cosineD, problem);
  const [cos, sin] = [Math.cos(t), Math.sin(t)];
  const [m2, m4] = momentsAlong(moments, t);
  const value = objective(m2, m4, cos * cosineS + sin * cosineD, problem);
  if (!Number.isFinite(value)) {
    throw new Error("The objective is not a finite number: the weights of this neuron are damaged.");
  }
  state.gain = value - state.value;
  state.d = combine(cos, d, -sin * length, s);
  state.s = unit(combine(cos, s, sin, direction));
  state.nIter += 1;
  Object.assign(state, { m2, m4, cos, sin, value, gOld: g, pgOld: pg });
  problem.onIteration(value);
}

/** How much F curves down, roughly: bulk C + pull I (rotate_core/rotation/curvature.py). */
function factors({ w, lambdaKurtosis, lambdaFidelity }, { s, m2, m4, nIter }) {
  if (nIter < BOLD) return [1, 0];
  const kurtosis = Math.max(Math.abs(m4 / (m2 * m2) - 3), 0.5);
  const bulk = (4 * lambdaKurtosis * kurtosis) / (1 + kurtosis) / m2;
  return [bulk, lambdaFidelity * Math.max(dot(w, s), 0)];
}

/** Polak-Ribiere+ direction; the preconditioned gradient where that would not ascend. */
function conjugate(pg, g, d, gOld, pgOld, s) {
  const beta = dot(pg, combine(1, g, -1, tangent(gOld, s))) / Math.max(dot(pgOld, gOld), 1e-30);
  const direction = combine(1, pg, Math.max(beta, 0), d);
  return dot(direction, g) > 0 ? direction : pg;
}

/** Sums of v U over tokens, less the mean vector for each v; the last of `sums` is the sum of v. */
function lessMean(sums, mean) {
  return combine(1, sums.subarray(0, mean.length), -sums[mean.length], mean);
}
