// The queue in front of a slow stream: order, overtaking, replacement, the bound, and what is left after it.
import { expect, test } from "vitest";
import { boundedWriter } from "./bounded-writer.ts";

const slowStream = (max: number) => {
  const written: string[] = [];
  let room = 1;
  let drain = () => {};
  let overflows = 0;
  const writer = boundedWriter<string>({
    write: (message) => {
      written.push(message);
      room -= 1;
      return room > 0;
    },
    onDrain: (resume) => {
      drain = resume;
    },
    max,
    onOverflow: () => {
      overflows += 1;
    },
  });
  const makeRoom = (messages: number) => {
    room = messages;
    drain();
  };
  return { writer, written, makeRoom, overflows: () => overflows };
};

test("nothing is written to a full stream; urgent messages overtake, the rest keeps its order", () => {
  const { writer, written, makeRoom } = slowStream(10);
  for (const message of ["a", "b", "c"]) writer.send(message);
  writer.send("stop", { urgent: true });
  expect(written).toEqual(["a"]);
  expect(writer.depth()).toBe(3);
  makeRoom(2);
  expect(written).toEqual(["a", "stop", "b"]);
  makeRoom(5);
  expect(written).toEqual(["a", "stop", "b", "c"]);
  writer.send("d");
  expect(written.at(-1)).toBe("d");
});

test("a keyed message replaces the one that still waits under its key", () => {
  const { writer, written, makeRoom } = slowStream(2);
  writer.send("a");
  for (let n = 1; n <= 50; n++) writer.send(`progress ${n}`, { key: "progress" });
  expect(writer.depth()).toBe(1);
  makeRoom(9);
  expect(written).toEqual(["a", "progress 50"]);
});

test("one message over the bound is told once, drops what waits and writes nothing more", () => {
  const { writer, written, makeRoom, overflows } = slowStream(3);
  for (let n = 0; n < 10; n++) writer.send(`${n}`);
  expect(overflows()).toBe(1);
  expect(writer.depth()).toBe(0);
  makeRoom(9);
  expect(written).toEqual(["0"]);
});

test("how long the peer has been deaf is only counted while something waits for it", async () => {
  const { writer, makeRoom } = slowStream(3);
  writer.send("a");
  expect(writer.blockedMs()).toBe(0);
  writer.send("b");
  const since = performance.now();
  while (performance.now() - since < 5);
  expect(writer.blockedMs()).toBeGreaterThan(4);
  makeRoom(9);
  expect(writer.blockedMs()).toBe(0);
});
