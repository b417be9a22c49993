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
 * @property {Float32Array} precondition dModel x dModel
 * @property {string[]} tokens
 * @property {Int8Array} rows token by token
 */

const MAGIC = "ROTATEU1";
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
  const at = [4 * dVocab, 4 * dVocab, 4 * dModel * dModel, tokenBytes, dVocab * stride].map(place);
  if (buffer.byteLength < end) {
    throw new Error(
      `The vocabulary file is cut short: ${buffer.byteLength} bytes arrived, ${end} were expected.`,
    );
  }
  const text = new TextDecoder().decode(new Uint8Array(buffer, at[3], tokenBytes));
  return {
    dModel,
    dVocab,
    stride,
    scale: new Float32Array(buffer, at[0], dVocab),
    weights: new Float32Array(buffer, at[1], dVocab),
    precondition: new Float32Array(buffer, at[2], dModel * dModel),
    tokens: JSON.parse(text),
    rows: new Int8Array(buffer, at[4], dVocab * stride),
  };
}
