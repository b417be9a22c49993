/** An atlas as rotate_core/atlas/ writes it: its plan whole, and of its tables what is looked at. */
import { decompress } from "fzstd";
import { parquetMetadataAsync, parquetReadObjects, toJson } from "hyparquet";

import { Missing } from "./source.js";

const FORMAT = "rotate_core atlas 4";
/** A table's last bytes, where its own list of contents is: read first, and once. */
const END = 1 << 14;
const CHANNEL = [
  "neuron", "channel", "kurtosis", "cosine", "support", "n_masked", "converged", "polarity", "top_ids", "top_z",
];
const INDEX = ["token_id", "neuron", "channel", "z", "support"];
const HITS = 20;
const compressors = { ZSTD: (input, length) => decompress(input, new Uint8Array(length)) };

/**
 * Opens an atlas.
 *
 * @param {ReturnType<import("./source.js").served>} source
 * @returns {Promise<Atlas>}
 */
export async function openAtlas(source) {
  let manifest;
  try {
    manifest = JSON.parse(await source.text("manifest.json"));
  } catch (error) {
    if (!(error instanceof Missing || error instanceof SyntaxError)) throw error;
    const why = error instanceof Missing ? "there is no manifest.json in it" : "its manifest.json is no JSON";
    throw new Error(`No atlas: ${source.name} (${why}). Wanted the folder that rotate decompose wrote.`);
  }
  if (manifest.format !== FORMAT) {
    throw new Error(`${source.name} is of format ${JSON.stringify(manifest.format ?? null)}: this page reads "${FORMAT}".`);
  }
  return new Atlas(source, manifest, JSON.parse(await source.text("tokens.json")));
}

export class Atlas {
  constructor(source, manifest, tokens) {
    this.source = source;
    this.manifest = manifest;
    this.tokens = tokens;
    this.groups = groupsOf(manifest.shards);
    this.kept = new Map();
  }

  group(layer, kind) {
    return this.groups.find((group) => group.layer === layer && group.kind === kind);
  }

  /** Neurons of a group with their channels, in the order of their numbers; null: not there yet. */
  async neurons(group, indices) {
    const shards = indices.map((index) => group.neurons.get(index));
    const q = await this.#calibration(group);
    const tables = new Map();
    await Promise.all(Array.from(new Set(shards), async (shard) => tables.set(shard, await this.#channels(shard))));
    return indices.map((index, i) => {
      const channels = tables.get(shards[i])?.get(index);
      return channels ? this.#described(group, index, channels, q) : null;
    });
  }

  /** What p and q of a group are over, in words. */
  async measured(group) {
    const { null: n } = this.manifest;
    if (!n) return "No q-value: nothing here says which channels are the neurons' own.";
    if (!(await this.finished(group))) return "No q-value yet: not all of this layer and kind is there.";
    const [neurons, random] = [group.neurons.size, n].map((count) => count.toLocaleString("en"));
    return `q over ${neurons} neurons, p against ${random} random vectors. Bold: q below 0.1. Grey: not told apart from random vectors.`;
  }

  /** Numbers of a group's neurons, those first whose first channel stands out most; null without p-values. */
  async byEvidence(group) {
    const calibration = await this.#calibration(group);
    if (!calibration) return null;
    const p = (index) => calibration.get(`${index}/0`).p;
    return [...group.neurons.keys()].sort((a, b) => p(a) - p(b) || a - b);
  }

  /** All tokens of a channel's tail, the furthest out first. */
  async tail({ layer, kind, index }, { row }) {
    const shard = this.group(layer, kind).neurons.get(index);
    const tails = await this.#once(`tails of ${shard}`, () =>
      this.#rows(`${shard}.parquet`, { columns: ["tail_ids", "tail_z"] }),
    );
    const { tail_ids: ids, tail_z: z } = tails[row];
    return ids.map((id, i) => [this.tokens[id], z[i]]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  }

  /** Channels with a token that reads as the word in their tail, as Python's Atlas.search ranks them. */
  async search(word) {
    const ids = tokenIds(this.tokens, word);
    if (!ids.length) throw new Error(`No token of ${this.manifest.model} reads ${JSON.stringify(word.trim())}.`);
    const found = await Promise.all(this.groups.map((group) => this.#hits(group, ids)));
    const hits = found.flatMap((rows) => rows ?? []).sort((a, b) => b.strength - a.strength);
    const channels = new Map();
    for (const hit of hits) {
      const name = [hit.layer, hit.kind, hit.index, hit.channel].join("/");
      if (!channels.has(name) && channels.size < HITS) channels.set(name, hit);
    }
    return { hits: [...channels.values()], missing: this.groups.filter((_, i) => found[i] === null) };
  }

  /** A group's channels with one of the tokens; null where it has no index yet. */
  async #hits(group, ids) {
    if (!(await this.finished(group))) return null;
    const filter = { token_id: { $in: ids } };
    const rows = await this.#rows(`${group.path}/index.parquet`, { columns: INDEX, filter });
    const calibration = rows.length ? await this.#calibration(group) : null;
    const { layer, kind } = group;
    return rows.map(({ token_id: id, neuron, channel, z, support }) => {
      const q = calibration?.get(`${neuron}/${channel}`).q ?? null;
      return { layer, kind, index: neuron, channel, token: this.tokens[id], z, q, strength: Math.abs(z) * support };
    });
  }

  /** Whether all that is planned of a group is there, with its p-values and its index of tokens. */
  finished(group) {
    return this.#once(`${group.path}/index.sha256`, async (path) => {
      const list = await optional(this.source.text(path));
      const names = new Set(list?.split("\n").map((line) => line.slice(66)));
      return group.lists.every((name) => names.has(name));
    });
  }

  /** @returns {Promise<Map<string, {p: number, q: number}> | null>} by neuron and channel */
  #calibration(group) {
    return this.#once(`${group.path}/calibration.parquet`, async (path) => {
      if (!this.manifest.null || !(await this.finished(group))) return null;
      const rows = await this.#rows(path);
      return new Map(rows.map(({ neuron, channel, p_value: p, q_value: q }) => [`${neuron}/${channel}`, { p, q }]));
    });
  }

  /** The channels of a shard by neuron; null where it is not there. */
  #channels(shard) {
    return this.#once(`${shard}.parquet`, async (path) => {
      const columns = [...new Set([...CHANNEL, this.manifest.statistic])];
      const rows = await optional(this.#rows(path, { columns }));
      if (!rows) return null;
      const byNeuron = new Map(rows.map(({ neuron }) => [neuron, []]));
      for (const [i, row] of rows.entries()) byNeuron.get(row.neuron).push({ ...row, row: i });
      return byNeuron;
    });
  }

  /** A neuron as the explorer's cards show it: web/view/data.js. */
  #described({ layer, kind }, index, rows, calibration) {
    const made = this.manifest;
    const channels = rows.map((row) => ({
      row: row.row,
      kurtosis: row.kurtosis,
      cosine: row.cosine,
      support: row.support,
      score: row[made.statistic],
      nMasked: row.n_masked,
      converged: row.converged,
      tail: row.polarity,
      p: null,
      q: null,
      ...calibration?.get(`${index}/${row.channel}`),
      top: row.top_ids.map((id, i) => [this.tokens[id], row.top_z[i]]),
    }));
    return { layer, kind, index, channels, nNull: calibration ? made.null : null, statistic: made.statistic };
  }

  async #rows(path, options = {}) {
    const { file, metadata } = await this.#once(`open ${path}`, async () => {
      const opened = await withEnd(await this.source.open(path));
      return { file: opened, metadata: await parquetMetadataAsync(opened, { initialFetchSize: END }) };
    });
    return toJson(await parquetReadObjects({ file, metadata, compressors, ...options }));
  }

  /** What was read stays; what failed is tried again. */
  #once(key, make) {
    if (!this.kept.has(key)) {
      const made = make(key);
      this.kept.set(key, made);
      made.catch(() => this.kept.delete(key));
    }
    return this.kept.get(key);
  }
}

async function withEnd({ byteLength, slice }) {
  const from = Math.max(0, byteLength - END);
  const end = await slice(from, byteLength);
  return {
    byteLength,
    async slice(start, stop = byteLength) {
      if (stop <= from) return slice(start, stop);
      const known = end.slice(Math.max(start - from, 0), stop - from);
      return start < from ? new Blob([await slice(start, from), known]).arrayBuffer() : known;
    },
  };
}

async function optional(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Missing) return null;
    throw error;
  }
}

/**
 * Layers and kinds that are planned, each with the shard of every neuron.
 *
 * @param {{layer: number, kind: string, neurons?: string, null?: string}[]} shards of manifest.json
 */
export function groupsOf(shards) {
  const groups = new Map();
  for (const { layer, kind, ...what } of shards) {
    const path = `layer-${String(layer).padStart(2, "0")}/${kind}`;
    if (!groups.has(path)) groups.set(path, { layer, kind, path, neurons: new Map(), lists: [] });
    const group = groups.get(path);
    const indices = parseIndices(what.neurons ?? what.null);
    const [first, last] = [indices[0], indices.at(-1)].map((index) => String(index).padStart(5, "0"));
    const name = `${what.neurons ? "neurons" : "null"}-${first}-${last}`;
    group.lists.push(`${name}.sha256`);
    if (what.neurons) for (const index of indices) group.neurons.set(index, `${path}/${name}`);
  }
  const ordered = [...groups.values()].filter(({ neurons }) => neurons.size);
  return ordered.sort((a, b) => a.layer - b.layer || (a.kind < b.kind ? -1 : 1));
}

/** Numbers out of text: "0-3,8" is 0, 1, 2, 3, 8. */
export function parseIndices(text) {
  return text.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** Tokens that read as a word, whatever the space around them and their capitals. */
export function tokenIds(tokens, word) {
  const wanted = word.trim().toLowerCase();
  return tokens.flatMap((token, id) => (token.trim().toLowerCase() === wanted ? [id] : []));
}
