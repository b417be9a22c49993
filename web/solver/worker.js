import { Backend, OwnLane } from "./backend.js";
import { answer, Calls } from "./calls.js";
import { Solver } from "./solver.js";

let solver;

/** What a page asks of a worker: to answer another one's calls, or to be the one that calls. */
const methods = {
  hello() {},

  listen(port) {
    const lane = new OwnLane();
    answer(port, (method, args) => lane.call(method, args));
  },

  async lead(pack, wasm, ports) {
    solver = new Solver(await Backend.create(pack, { wasm, others: ports.map((port) => new Calls(port)) }));
    return solver.backend.name;
  },

  decompose: (...args) => solver.decompose(...args),
};

answer(self, (method, args, context) => methods[method](...args, context));
