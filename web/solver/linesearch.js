/** F along a whole geodesic, from the joint moments of its two ends: see rotate_core/rotation/sphere.py. */

const POINTS = 64;
const REFINEMENTS = 2;

export const slog = (x) => Math.sign(x) * Math.log1p(Math.abs(x));

/** F from the second and fourth central moment and the cosine with the neuron. */
export function objective(m2, m4, cosine, { lambdaKurtosis, lambdaFidelity }) {
  return lambdaKurtosis * slog(m4 / (m2 * m2) - 3) + lambdaFidelity * cosine;
}

/**
 * Second and fourth central moment of the logits cos t a + sin t b.
 * @param {Float64Array} moments E[a^i b^j] for (i, j) = 20, 11, 02, 40, 31, 22, 13, 04
 * @param {number} t angle
 * @returns {[number, number]}
 */
export function momentsAlong([e20, e11, e02, e40, e31, e22, e13, e04], t) {
  const c = Math.cos(t);
  const s = Math.sin(t);
  const [cc, cs, ss] = [c * c, c * s, s * s];
  const m2 = cc * e20 + 2 * cs * e11 + ss * e02;
  const m4 = cc * cc * e40 + 4 * cc * cs * e31 + 6 * cc * ss * e22 + 4 * cs * ss * e13 + ss * ss * e04;
  return [m2, m4];
}

/**
 * The angle in [0, pi/2] at which F is largest: a grid, refined twice around its best point.
 * @param {Float64Array} moments
 * @param {number} cosineS cosine of the neuron with the point
 * @param {number} cosineD and with the direction
 * @param {{lambdaKurtosis: number, lambdaFidelity: number}} lambdas
 */
export function lineSearch(moments, cosineS, cosineD, lambdas) {
  let [low, high, t] = [0, Math.PI / 2, 0];
  for (let round = 0; round <= REFINEMENTS; round++) {
    const step = (high - low) / (POINTS - 1);
    let best = -Infinity;
    let at = 0;
    for (let i = 0; i < POINTS; i++) {
      const angle = low + i * step;
      const [m2, m4] = momentsAlong(moments, angle);
      const cosine = Math.cos(angle) * cosineS + Math.sin(angle) * cosineD;
      const value = objective(m2, m4, cosine, lambdas);
      if (value > best) [best, at] = [value, i];
    }
    t = low + at * step;
    [low, high] = [low + Math.max(at - 1, 0) * step, low + Math.min(at + 1, POINTS - 1) * step];
  }
  return t;
}
