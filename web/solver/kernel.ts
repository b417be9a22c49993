// The four passes over the vocabulary that the solver is made of, in AssemblyScript with SIMD.
//
// U is stored token by token: int8 rows of `stride` bytes (a multiple of 16, zero-padded), and one
// float32 scale per token. All arguments are byte offsets into one memory that shard.js lays out;
// kernel.js is the same four functions in plain JavaScript.
//
// A projection multiplies integers, which takes half the time: the vector is rounded to int16 first.
// Of 576 numbers that loses some 3e-5 of a logit's standard deviation. The weights of a sum over rows
// go over too many powers of ten for that: they are rounded to twice as many bits.

const MOST: f32 = 32767;
/** Sum of absolute int16 numbers up to which a sum of their products with int8 fits into int32. */
const MOST_IN_ALL: f32 = 16777216;
/** Largest weight of a row as an integer, and rows of a block: their sums fit into int32. */
const MOST_SPLIT: f64 = 1073741824;
const BLOCK: i32 = 256;

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
 * out[j], float64: the sum over rows of g[i] row[i][j]. In integers, two rows at a time: within a
 * block of rows, g is rounded to 31 bits of the largest there and split into two int16 numbers.
 * Neither half's sums over a block leave int32. `work` has room for 4 bytes of each row of a block.
 */
export function accumulate(
  rows: usize, g: usize, n: i32, stride: i32, work: usize, out: usize,
): void {
  const width = <usize>stride;
  memory.fill(out, 0, width << 3);
  for (let first = 0; first < n; first += BLOCK) {
    const left = min(BLOCK, n - first);
    let most: f32 = 0;
    for (let i = 0; i < left; i++) most = max(most, abs(load<f32>(g + (<usize>i << 2))));
    if (most > 0) {
      const factor = MOST_SPLIT / <f64>most;
      const pairs = (left + 1) >> 1;
      for (let i = 0; i < pairs << 1; i++) {
        // An odd last row is its own partner, with the weight 0: what stands behind it may not be ours.
        const x = i < left ? <i32>nearest(factor * <f64>load<f32>(g + (<usize>i << 2))) : 0;
        const high = (x + 32768) >> 16;
        const at = work + (<usize>(i >> 1) << 3) + (<usize>(i & 1) << 1);
        store<i16>(at, <i16>high);
        store<i16>(at, <i16>(x - (high << 16)), 4);
      }
      for (let j: usize = 0; j < width; j += 16) {
        addPairs(rows + j, width, left, pairs, work, 1 / factor, out + (j << 3));
      }
    }
    rows += <usize>left * width;
    g += <usize>left << 2;
  }
}

/** Adds 16 columns of a block to their sums. */
function addPairs(
  rows: usize, width: usize, left: i32, pairs: i32, work: usize, unit: f64, out: usize,
): void {
  let a0 = i32x4.splat(0), a1 = i32x4.splat(0), a2 = i32x4.splat(0), a3 = i32x4.splat(0);
  let b0 = i32x4.splat(0), b1 = i32x4.splat(0), b2 = i32x4.splat(0), b3 = i32x4.splat(0);
  for (let pair = 0; pair < pairs; pair++) {
    const x = v128.load(rows);
    const y = (pair << 1) + 1 < left ? v128.load(rows + width) : x;
    const high = v128.load32_splat(work), low = v128.load32_splat(work, 4);
    const first = i8x16.shuffle(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const last = i8x16.shuffle(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const x0 = i16x8.extend_low_i8x16_s(first), x1 = i16x8.extend_high_i8x16_s(first);
    const x2 = i16x8.extend_low_i8x16_s(last), x3 = i16x8.extend_high_i8x16_s(last);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x0, high));
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x1, high));
    a2 = i32x4.add(a2, i32x4.dot_i16x8_s(x2, high));
    a3 = i32x4.add(a3, i32x4.dot_i16x8_s(x3, high));
    b0 = i32x4.add(b0, i32x4.dot_i16x8_s(x0, low));
    b1 = i32x4.add(b1, i32x4.dot_i16x8_s(x1, low));
    b2 = i32x4.add(b2, i32x4.dot_i16x8_s(x2, low));
    b3 = i32x4.add(b3, i32x4.dot_i16x8_s(x3, low));
    rows += width << 1;
    work += 8;
  }
  addFour(out, a0, b0, unit);
  addFour(out + 32, a1, b1, unit);
  addFour(out + 64, a2, b2, unit);
  addFour(out + 96, a3, b3, unit);
}

// @ts-ignore: a decorator of AssemblyScript
@inline
function addFour(out: usize, high: v128, low: v128, unit: f64): void {
  addTwo(out, f64x2.convert_low_i32x4_s(high), f64x2.convert_low_i32x4_s(low), unit);
  const highs = i8x16.shuffle(high, high, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  const lows = i8x16.shuffle(low, low, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  addTwo(out + 16, f64x2.convert_low_i32x4_s(highs), f64x2.convert_low_i32x4_s(lows), unit);
}

// @ts-ignore: a decorator of AssemblyScript
@inline
function addTwo(out: usize, high: v128, low: v128, unit: f64): void {
  const sum = f64x2.add(f64x2.mul(high, f64x2.splat(65536)), low);
  v128.store(out, f64x2.add(v128.load(out), f64x2.mul(sum, f64x2.splat(unit))));
}
