// The four passes over the vocabulary that the solver is made of, in AssemblyScript with SIMD.
//
// U is stored token by token: int8 rows of `stride` bytes (a multiple of 16, zero-padded), and one
// float32 scale per token. All arguments are byte offsets into one memory that shard.js lays out;
// kernel.js is the same four functions in plain JavaScript.
//
// A projection multiplies integers, which takes half the time: the vector is rounded to int16 first.
// Of 576 numbers that loses some 3e-5 of a logit's standard deviation. A sum over rows does not: its
// weights go over too many powers of ten.

const MOST: f32 = 32767;
/** Sum of absolute int16 numbers up to which a sum of their products with int8 fits into int32. */
const MOST_IN_ALL: f32 = 16777216;

/** out[i] = scale[i] * <row i, vector> - offset. `work` has room for stride int16 numbers. */
export function project(
  rows: usize, scale: usize, n: i32, stride: i32, vector: usize, offset: f32, work: usize, out: usize,
): void {
  let most: f32 = 1e-30;
  let total: f32 = 1e-30;
  for (let j = 0; j < stride; j++) {
    const x = abs(load<f32>(vector + (<usize>j << 2)));
    most = max(most, x);
    total += x;
  }
  const factor = min(MOST / most, MOST_IN_ALL / total);
  for (let j = 0; j < stride; j++) {
    store<i16>(work + (<usize>j << 1), <i16>nearest(factor * load<f32>(vector + (<usize>j << 2))));
  }
  for (let i = 0; i < n; i++) {
    let low = i32x4.splat(0);
    let high = i32x4.splat(0);
    const end = rows + <usize>stride;
    let v = work;
    for (; rows < end; rows += 16, v += 32) {
      const x = v128.load(rows);
      low = i32x4.add(low, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(x), v128.load(v)));
      high = i32x4.add(high, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(x), v128.load(v, 16)));
    }
    const sum = i32x4.add(low, high);
    const dot = i32x4.extract_lane(sum, 0) + i32x4.extract_lane(sum, 1)
      + i32x4.extract_lane(sum, 2) + i32x4.extract_lane(sum, 3);
    store<f32>(out, load<f32>(scale) / factor * <f32>dot - offset);
    scale += 4;
    out += 4;
  }
}

/** out[0..7], float64: sums of p a^i b^j for (i, j) = 20, 11, 02, 40, 31, 22, 13, 04. */
export function jointMoments(a: usize, b: usize, p: usize, n: i32, out: usize): void {
  let e20: f64 = 0, e11: f64 = 0, e02: f64 = 0;
  let e40: f64 = 0, e31: f64 = 0, e22: f64 = 0, e13: f64 = 0, e04: f64 = 0;
  const end = <usize>n << 2;
  for (let i: usize = 0; i < end; i += 4) {
    const x = <f64>load<f32>(a + i);
    const y = <f64>load<f32>(b + i);
    const w = <f64>load<f32>(p + i);
    const xx = x * x, xy = x * y, yy = y * y;
    const wxx = w * xx, wyy = w * yy;
    e20 += wxx;
    e11 += w * xy;
    e02 += wyy;
    e40 += wxx * xx;
    e31 += wxx * xy;
    e22 += wxx * yy;
    e13 += wyy * xy;
    e04 += wyy * yy;
  }
  store<f64>(out, e20);
  store<f64>(out, e11, 8);
  store<f64>(out, e02, 16);
  store<f64>(out, e40, 24);
  store<f64>(out, e31, 32);
  store<f64>(out, e22, 40);
  store<f64>(out, e13, 48);
  store<f64>(out, e04, 56);
}

/**
 * Moves the logits along the geodesic, a = cos a + sin b, and writes the gradient in logits,
 * g[i] = scale[i] p[i] (a[i]^2 - ratio) a[i]. Returns the sum of g / scale: the third moment.
 */
export function advance(
  a: usize, b: usize, p: usize, scale: usize, n: i32, cos: f64, sin: f64, ratio: f64, g: usize,
): f64 {
  let third: f64 = 0;
  const end = <usize>n << 2;
  for (let i: usize = 0; i < end; i += 4) {
    const x = cos * <f64>load<f32>(a + i) + sin * <f64>load<f32>(b + i);
    const slope = <f64>load<f32>(p + i) * (x * x - ratio) * x;
    store<f32>(a + i, <f32>x);
    store<f32>(g + i, <f32>(slope * <f64>load<f32>(scale + i)));
    third += slope;
  }
  return third;
}

/**
 * out[j], float64: the sum over rows of g[i] row[i][j]. Four rows at a time, in float32 within a
 * block of rows (in `work`, stride floats) and in float64 across blocks.
 */
export function accumulate(
  rows: usize, g: usize, n: i32, stride: i32, work: usize, out: usize,
): void {
  const width = <usize>stride;
  memory.fill(out, 0, width << 3);
  memory.fill(work, 0, width << 2);
  for (let i = 0; i < n; i += 4) {
    // A last group of one to three rows: the rows beyond the end get weight 0 and are row i again.
    const left = n - i;
    const g0 = f32x4.splat(load<f32>(g));
    const g1 = f32x4.splat(left > 1 ? load<f32>(g, 4) : 0);
    const g2 = f32x4.splat(left > 2 ? load<f32>(g, 8) : 0);
    const g3 = f32x4.splat(left > 3 ? load<f32>(g, 12) : 0);
    const row1 = left > 1 ? width : 0;
    const row2 = left > 2 ? width << 1 : 0;
    const row3 = left > 3 ? width * 3 : 0;
    for (let j: usize = 0; j < width; j += 8) {
      const x0 = v128.load_ext<i8>(rows + j);
      const x1 = v128.load_ext<i8>(rows + row1 + j);
      const x2 = v128.load_ext<i8>(rows + row2 + j);
      const x3 = v128.load_ext<i8>(rows + row3 + j);
      const target = work + (j << 2);
      v128.store(target, f32x4.add(v128.load(target), f32x4.add(
        f32x4.add(f32x4.mul(g0, lowFloats(x0)), f32x4.mul(g1, lowFloats(x1))),
        f32x4.add(f32x4.mul(g2, lowFloats(x2)), f32x4.mul(g3, lowFloats(x3))),
      )));
      v128.store(target, f32x4.add(v128.load(target, 16), f32x4.add(
        f32x4.add(f32x4.mul(g0, highFloats(x0)), f32x4.mul(g1, highFloats(x1))),
        f32x4.add(f32x4.mul(g2, highFloats(x2)), f32x4.mul(g3, highFloats(x3))),
      )), 16);
    }
    rows += width << 2;
    g += 16;
    if ((i & 1023) == 1020 || left <= 4) {
      for (let j: usize = 0; j < width; j++) {
        const sum = out + (j << 3);
        store<f64>(sum, load<f64>(sum) + <f64>load<f32>(work + (j << 2)));
      }
      memory.fill(work, 0, width << 2);
    }
  }
}

// @ts-ignore: a decorator of AssemblyScript
@inline
function lowFloats(x: v128): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(x));
}

// @ts-ignore: a decorator of AssemblyScript
@inline
function highFloats(x: v128): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(x));
}
