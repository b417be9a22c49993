/** Arithmetic on d_model numbers: small enough for plain JavaScript, in float64. */

export function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

export const norm = (x) => Math.sqrt(dot(x, x));

/** alpha x + beta y, a new vector. */
export function combine(alpha, x, beta, y) {
  return Float64Array.from(x, (value, i) => alpha * value + beta * y[i]);
}

export const scaled = (x, factor) => Float64Array.from(x, (value) => value * factor);

export const unit = (x) => scaled(x, 1 / norm(x));

export const cosine = (x, y) => dot(x, y) / (norm(x) * norm(y));

/** The part of v in the tangent space of the sphere at the unit vector s. */
export const tangent = (v, s) => combine(1, v, -dot(v, s), s);

/**
 * (bulk C + pull I)^-1 v, where the covariance C has these eigenvalues, and eigenvectors one after the
 * other.
 */
export function solveFor({ values, vectors }, v, bulk = 1, pull = 0) {
  const n = v.length;
  const result = new Float64Array(n);
  for (let k = 0, at = 0; k < n; k++, at += n) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += vectors[at + i] * v[i];
    const weight = sum / (bulk * values[k] + pull);
    for (let i = 0; i < n; i++) result[i] += weight * vectors[at + i];
  }
  return result;
}
