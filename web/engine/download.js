const CACHE = "rotate-explorer";

/** Whether the browser has the file from an earlier visit. */
export async function isKept({ url, checksum }) {
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  return Boolean(await cache?.match(`${url}?v=${checksum}`));
}

/**
 * A large file, kept for the next visit in the browser's Cache storage.
 *
 * @param {{url: string, bytes: number, checksum: string}} file
 * @param {{signal?: AbortSignal, onProgress?: (fraction: number) => void}} options
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchKept({ url, bytes, checksum }, { signal, onProgress } = {}) {
  const key = `${url}?v=${checksum}`;
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  const kept = await cache?.match(key);
  if (kept) {
    const buffer = await kept.arrayBuffer();
    if (buffer.byteLength === bytes) return buffer;
  }
  const content = await download(key, bytes, signal, onProgress);
  if (cache) await keep(cache, key, content);
  return content.buffer;
}

/** @param {ArrayBuffer} buffer @returns {Promise<ArrayBuffer>} */
export async function gunzip(buffer) {
  const unpacked = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return await new Response(unpacked).arrayBuffer();
  } catch {
    throw new Error("The vocabulary file is damaged. Reload the page to load it again.");
  }
}

async function download(url, bytes, signal, onProgress) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const reason = location.protocol === "file:" ? "this page was opened as a file: serve the book, with make serve" : "no connection";
    throw new Error(`The vocabulary could not be downloaded (${reason}).`);
  }
  if (!response.ok) {
    throw new Error(`The vocabulary could not be downloaded: the server answered ${response.status}.`);
  }
  const content = new Uint8Array(bytes);
  let received = 0;
  const reader = response.body.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (received + part.value.length > bytes) throw new RangeError("too long");
      content.set(part.value, received);
      received += part.value.length;
      onProgress?.(received / bytes);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reader.cancel().catch(() => {});
  }
  if (received !== bytes) {
    throw new Error(`The download was cut short or is of another version: ${received} of ${bytes} bytes. Try again, or reload the page.`);
  }
  return content;
}

/** Keeps this version and drops older ones; a full disk only means that nothing is kept. */
async function keep(cache, key, content) {
  try {
    const [path] = key.split("?");
    for (const request of await cache.keys()) {
      if (request.url.split("?")[0] === path) await cache.delete(request);
    }
    await cache.put(key, new Response(content));
  } catch (error) {
    console.warn(`The vocabulary is not kept for the next visit: ${error.message}`);
  }
}
