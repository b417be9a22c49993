import { Shard } from "./shard.js";

/** One worker, one shard: {id, method, args} comes in, {id, result} or {id, error} goes out. */
let shard;

self.onmessage = ({ data: { id, method, args } }) => {
  try {
    let result;
    if (method === "load") {
      shard = new Shard(args[0]);
      result = shard.kernel.name;
    } else {
      result = shard[method](...args);
    }
    const moved = ArrayBuffer.isView(result) ? [result.buffer] : [];
    self.postMessage({ id, result }, moved);
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
