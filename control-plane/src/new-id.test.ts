// Ids are unique, well formed, ordered by their time, and use every letter.
import { expect, test } from "vitest";
import { createIds } from "./new-id.ts";

test("ten thousand ids are different, match the database's pattern and use all 32 letters", () => {
  const newId = createIds();
  const ids = Array.from({ length: 10_000 }, () => newId("a"));
  expect(new Set(ids).size).toBe(10_000);
  for (const id of ids) expect(id).toMatch(/^a_[0-9A-HJKMNP-TV-Z]{26}$/);
  expect(new Set(ids.flatMap((id) => [...id.slice(-16)])).size).toBe(32);
});

test("two sources never give the same", () => {
  const [one, other] = [createIds(), createIds()];
  const ids = Array.from({ length: 1_000 }, () => [one("v"), other("v")]).flat();
  expect(new Set(ids).size).toBe(2_000);
});
