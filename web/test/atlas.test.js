// What an atlas is found by: its address, its plan, its tokens. Its tables: tests/explorer/test_atlas_page.py.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { groupsOf, parseIndices, tokenIds } from "../atlas/atlas.js";
import { addressOf, Count } from "../atlas/source.js";

const HERE = "https://example.org/book/atlas.html?atlas=x#y";

describe("an address", () => {
  test("of the hub is its dataset's files, with a revision or without", () => {
    const files = "https://huggingface.co/datasets/me/my-atlas/resolve";
    for (const text of ["me/my-atlas", "https://huggingface.co/datasets/me/my-atlas", "https://huggingface.co/datasets/me/my-atlas/"]) {
      assert.equal(addressOf(text, HERE), `${files}/main/`);
    }
    assert.equal(addressOf("https://huggingface.co/datasets/me/my-atlas/tree/v2", HERE), `${files}/v2/`);
    assert.equal(addressOf(`${files}/v2/`, HERE), `${files}/v2/`);
  });
  test("of a folder is from where the page is", () => {
    const wanted = [
      ["./", "https://example.org/book/"], ["./me/atlas", "https://example.org/book/me/atlas/"], ["/atlas/", "https://example.org/atlas/"],
      ["https://other.org/atlas/manifest.json", "https://other.org/atlas/"],
    ];
    for (const [text, address] of wanted) assert.equal(addressOf(text, HERE), address);
  });
});

describe("a plan", () => {
  test("has the shard of every neuron, named as rotate_core/atlas/manifest.py names it", () => {
    const groups = groupsOf([
      { layer: 29, kind: "out", null: "0-19" },
      { layer: 29, kind: "out", neurons: "5,81,1350-1351" },
      { layer: 3, kind: "gate", neurons: "7" },
      { layer: 4, kind: "gate", null: "0-19" },
    ]);
    assert.deepEqual(groups.map(({ path }) => path), ["layer-03/gate", "layer-29/out"]);
    assert.deepEqual(groups[1].lists, ["null-00000-00019.sha256", "neurons-00005-01351.sha256"]);
    assert.deepEqual([...groups[1].neurons.keys()], [5, 81, 1350, 1351]);
    assert.equal(groups[1].neurons.get(1350), "layer-29/out/neurons-00005-01351");
  });
  test("says numbers as ranges", () => assert.deepEqual(parseIndices("0-3,8"), [0, 1, 2, 3, 8]));
});

test("a word is a token whole, whatever its spaces and capitals", () => {
  assert.deepEqual(tokenIds([" Until", "until", "untilled", ""], " UNTIL "), [0, 1]);
});

test("a table that is opened counts once", () => {
  const count = new Count();
  count.opened("a.parquet", 10);
  count.opened("a.parquet", 10);
  count.opened("b.parquet", 5);
  assert.equal(count.size, 15);
});
