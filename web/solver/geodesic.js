import { lineSearch, momentsAlong, objective } from "./linesearch.js";
import { combine, dot, multiply, norm, scaled, tangent, unit } from "./vectors.js";

/** Of float32: a gain below it is lost. */
const ROUNDING = 2 ** -23;

/**
 * One channel of one neuron: preconditioned conjugate gradients on the sphere with an exact line
 * search. Step for step what rotate_core/rotation/sphere.py does, with weighted moments; only that a neuron
 * which stalls where its gradient is not small gets no kick, but is returned as not converged.
 *
 * @param {import("./backend.js").Backend} backend
 * @param {Float32Array} w the neuron
 * @param {Float32Array} p sample weights of the tokens, sum 1
 * @param {{lambdaKurtosis: number, lambdaFidelity: number, tolerance?: number,
 *   gradientTolerance?: number, maxIter?: number, precondition?: Float32Array,
 *   signal?: AbortSignal, onIteration?: (n: number, value: number) => void
 * }} options
 * @returns {Promise<{vector: Float64Array, objective: number, nIter: number, converged: boolean}>}
 */
export async function solve(backend, w, p, options) {
  const { tolerance = 1e-5, gradientTolerance = 3e-3, maxIter = 200 } = options;
  const { precondition, signal, onIteration } = options;
  const wUnit = unit(w);
  const mean = await backend.sample(p);
  let s = wUnit;
  let [m2, m4] = await backend.begin(s, dot(mean, s));
  if (!(m2 > 0)) throw new Error("This neuron's logits have no variance, so no kurtosis.");
  let value = objective(m2, m4, 1, options);
  let [cos, sin] = [1, 0];
  let gain = Infinity;
  let d, gOld, pgOld;

  for (let nIter = 0; ; nIter++) {
    signal?.throwIfAborted();
    const sums = await backend.advance(cos, sin, m4 / m2);
    const third = sums[s.length];
    const slope = (4 * options.lambdaKurtosis) / (m2 * m2) / (1 + Math.abs(m4 / (m2 * m2) - 3));
    const inLogits = combine(slope, sums.subarray(0, s.length), -slope * third, mean);
    const g = tangent(combine(1, inLogits, options.lambdaFidelity, wUnit), s);
    const converged = gain < tolerance && norm(g) < gradientTolerance;
    if (converged || gain < Math.min(tolerance, ROUNDING) || nIter === maxIter) {
      return { vector: scaled(s, norm(w)), objective: value, nIter, converged };
    }
    const pg = precondition ? tangent(multiply(precondition, g), s) : g;
    d = d ? conjugate(pg, g, tangent(d, s), gOld, pgOld, s) : pg;
    [gOld, pgOld] = [g, pg];
    const length = norm(d);
    if (!(length > 0)) return { vector: scaled(s, norm(w)), objective: value, nIter, converged: true };
    const direction = scaled(d, 1 / length);

    const moments = await backend.along(direction, dot(mean, direction));
    const [cosineS, cosineD] = [dot(wUnit, s), dot(wUnit, direction)];
    const t = lineSearch(moments, cosineS, cosineD, options);
    [cos, sin] = [Math.cos(t), Math.sin(t)];
    [m2, m4] = momentsAlong(moments, t);
    const newValue = objective(m2, m4, cos * cosineS + sin * cosineD, options);
    if (!Number.isFinite(newValue)) {
      throw new Error("The objective is not a finite number: the weights of this neuron are damaged.");
    }
    [gain, value] = [newValue - value, newValue];
    d = combine(cos, d, -sin * length, s);
    s = unit(combine(cos, s, sin, direction));
    onIteration?.(nIter + 1, value);
  }
}

/** Polak-Ribiere+ direction; the preconditioned gradient where that would not ascend. */
function conjugate(pg, g, d, gOld, pgOld, s) {
  const beta = dot(pg, combine(1, g, -1, tangent(gOld, s))) / Math.max(dot(pgOld, gOld), 1e-30);
  const direction = combine(1, pg, Math.max(beta, 0), d);
  return dot(direction, g) > 0 ? direction : pg;
}
