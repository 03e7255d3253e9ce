// Which address is dialled next, and what is remembered of those that replicas named.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createAddressBook } from "./addresses.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "renderplane-addresses-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));
const open = (configured: readonly string[], random = () => 0) =>
  createAddressBook({ dir, configured: () => configured, random, log: silentLogger() });

test("sticks to what works, and tries every other one once before one again", () => {
  const book = open(["a:1", "b:1", "c:1"]);
  book.worked("b:1");
  expect(book.next()).toBe("b:1");
  const tried: string[] = [];
  for (let n = 0; n < 3; n++) {
    const address = book.next();
    tried.push(address);
    book.failed(address);
  }
  expect(tried).toEqual(["b:1", "a:1", "c:1"]);
  expect(book.next()).toBe("b:1");
});

test("the first one is chosen by chance, so that a fleet spreads", () => {
  expect(open(["a:1", "b:1", "c:1"], () => 0.99).next()).toBe("c:1");
  expect(open(["a:1", "b:1", "c:1"], () => 0.5).next()).toBe("b:1");
});

test("what a replica named is tried after the settings, also by the next start of the agent; nonsense is not", () => {
  open(["a:1"]).remember(["0.0.0.0:7", "no address", "[::1]:8", "r2:7443"]);
  const book = open(["a:1"]);
  expect(book.count()).toBe(3);
  expect(book.next()).toBe("a:1");
  book.failed("a:1");
  expect(book.next()).toBe("[::1]:8");
  writeFileSync(join(dir, "addresses.json"), "{");
  expect(open(["a:1"]).count()).toBe(1);
});

test("a replica that is not named any more is kept behind those that are: it may be the only one that is up next", () => {
  const book = open(["a:1"]);
  book.remember(["r1:7443", "r2:7443"]);
  book.remember(["r1:7443"]);
  expect(open(["a:1"]).count()).toBe(3);
  const tried = [0, 1, 2].map(() => {
    const address = book.next();
    book.failed(address);
    return address;
  });
  expect(tried.sort()).toEqual(["a:1", "r1:7443", "r2:7443"]);
});

test("of many names the newest are kept", () => {
  const book = open(["a:1"]);
  for (let i = 0; i < 40; i++) book.remember([`r${i}:1`]);
  expect(book.count()).toBe(17);
  expect(book.otherThan("a:1", "")).toMatch(/^r(2[4-9]|3\d):1$/);
});

test("to move means somewhere else: the wished one or any other, or nowhere", () => {
  const book = open(["a:1", "b:1"]);
  expect(book.otherThan("a:1", "z:9")).toBe("z:9");
  expect(book.otherThan("a:1", "")).toBe("b:1");
  expect(book.otherThan("a:1", "a:1")).toBeUndefined();
  expect(book.otherThan("a:1", "nonsense")).toBeUndefined();
  expect(open(["a:1"]).otherThan("a:1", "")).toBeUndefined();
});
