/**
 * Where an atlas lies: a folder that a server has, read by ranges, or one that the reader chose.
 *
 * Both have the same two functions: text(path), a small file whole, and open(path), a large one as
 * hyparquet reads it, by slices. What is not there is a Missing error.
 */
import { asyncBufferFromUrl } from "hyparquet";

const HUB = "https://huggingface.co/datasets/";
const NAME = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;

/** A file that is not there. */
export class Missing extends Error {}

/** Bytes read so far: of small files whole, and of tables out of their sizes. */
export class Count {
  constructor(onChange = () => {}) {
    this.onChange = onChange;
    this.whole = 0;
    this.parts = 0;
    this.sizes = new Map();
  }

  /** How many bytes the tables have that were opened. */
  get size() {
    return [...this.sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  add(what, bytes) {
    this[what] += bytes;
    this.onChange(this);
  }

  opened(path, bytes) {
    this.sizes.set(path, bytes);
  }
}

/**
 * The address of an atlas's folder: "organisation/name" is a dataset of the hub, as is the address
 * of its page, with a revision or without; all else is an address, from where this page is.
 *
 * @param {string} text @param {string} here @returns {string} ends in a slash
 */
export function addressOf(text, here) {
  const page = text.startsWith(HUB) ? text.slice(HUB.length).replace(/\/$/, "") : text;
  const [, name, revision = "main"] = page.match(/^([^/]+\/[^/]+)(?:\/tree\/(.+))?$/) ?? [];
  if (name && NAME.test(name)) return `${HUB}${name}/resolve/${encodeURIComponent(revision)}/`;
  const url = new URL(text, here);
  url.pathname = url.pathname.replace(/\/*(manifest\.json)?$/, "/");
  return url.href;
}

/** @param {string} address of a folder @param {Count} count */
export function served(address, count) {
  const at = (path) => new URL(path, address).href;
  const fetchRange = async (url, options) => {
    const response = await reach(url, options);
    if (options.method === "HEAD") return response;
    if (response.status !== 206) {
      response.body?.cancel();
      throw new Error(
        `${address} answers with whole files (status ${response.status} where 206, a part, was asked for): ` +
          "wanted a server that sends ranges. Or choose the folder from your disk.",
      );
    }
    const bytes = await response.arrayBuffer();
    count.add("parts", bytes.byteLength);
    return new Response(bytes, { status: 206, headers: response.headers });
  };
  return {
    name: address,
    async text(path) {
      const bytes = await (await reach(at(path))).arrayBuffer();
      count.add("whole", bytes.byteLength);
      return new TextDecoder().decode(bytes);
    },
    async open(path) {
      const buffer = await asyncBufferFromUrl({ url: at(path), fetch: fetchRange });
      count.opened(path, buffer.byteLength);
      return buffer;
    },
  };
}

/** A response that is there, or an error in words. 403 is for hyparquet: it asks for a part then. */
async function reach(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw new Error(`${url} cannot be reached (${error.message}): the network, or its server lets no other site read it (CORS).`);
  }
  if (response.status === 404) throw new Missing(`there is no ${url}`);
  if (!response.ok && !(response.status === 403 && options?.method === "HEAD")) {
    throw new Error(`${url}: the server answers with status ${response.status}.`);
  }
  return response;
}

/** @param {FileList} files of a folder that was chosen @param {Count} count */
export function chosen(files, count) {
  const parts = (file) => file.webkitRelativePath.split("/");
  const folder = parts(files[0])[0];
  const byPath = new Map(Array.from(files, (file) => [parts(file).slice(1).join("/"), file]));
  const find = (path) => {
    if (!byPath.has(path)) throw new Missing(`there is no ${path} in ${folder}`);
    return byPath.get(path);
  };
  return {
    name: `the folder ${folder}`,
    async text(path) {
      const file = find(path);
      count.add("whole", file.size);
      return file.text();
    },
    async open(path) {
      const file = find(path);
      count.opened(path, file.size);
      const slice = (start, end = file.size) => {
        count.add("parts", end - start);
        return file.slice(start, end).arrayBuffer();
      };
      return { byteLength: file.size, slice };
    },
  };
}
