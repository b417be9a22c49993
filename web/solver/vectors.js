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

/** Matrix (row by row) times vector. */
export function multiply(matrix, v) {
  const n = v.length;
  return Float64Array.from({ length: n }, (_, i) => dot(matrix.subarray(i * n, i * n + n), v));
}
