/**
 * The file that rotate_core/explorer/pack.py writes: U as int8 with one scale per token, and what
 * else the solver needs. Little-endian; each part starts at a multiple of 16 bytes.
 *
 * @typedef {object} Pack
 * @property {number} dModel
 * @property {number} dVocab
 * @property {number} stride bytes of a row: dModel rounded up to 16
 * @property {Float32Array} scale one per token
 * @property {Float32Array} weights token weights to start from
 * @property {{values: Float32Array, vectors: Float32Array}} curvature eigenvalues of the vocabulary's
 *   covariance, and eigenvectors, one after the other
 * @property {string[]} tokens
 * @property {Int8Array} rows token by token
 */

const MAGIC = "ROTATEU2";
const HEADER = 32;

/**
 * @param {ArrayBuffer} buffer
 * @returns {Pack}
 */
export function parsePack(buffer) {
  if (buffer.byteLength < HEADER) throw new Error("The vocabulary file is empty.");
  const magic = new TextDecoder().decode(new Uint8Array(buffer, 0, 8));
  if (magic !== MAGIC) throw new Error("The vocabulary file is not one of this explorer's.");
  const [dModel, stride, dVocab, tokenBytes] = new Uint32Array(buffer, 8, 4);
  let end = HEADER;
  const place = (bytes) => {
    const offset = end;
    end = Math.ceil((end + bytes) / 16) * 16;
    return offset;
  };
  const floats = [dVocab, dVocab, dModel, dModel * dModel].map((n) => 4 * n);
  const at = [...floats, tokenBytes, dVocab * stride].map(place);
  if (buffer.byteLength < end) {
    throw new Error(
      `The vocabulary file is cut short: ${buffer.byteLength} bytes arrived, ${end} were expected.`,
    );
  }
  const text = new TextDecoder().decode(new Uint8Array(buffer, at[4], tokenBytes));
  return {
    dModel,
    dVocab,
    stride,
    scale: new Float32Array(buffer, at[0], dVocab),
    weights: new Float32Array(buffer, at[1], dVocab),
    curvature: {
      values: new Float32Array(buffer, at[2], dModel),
      vectors: new Float32Array(buffer, at[3], dModel * dModel),
    },
    tokens: JSON.parse(text),
    rows: new Int8Array(buffer, at[5], dVocab * stride),
  };
}
