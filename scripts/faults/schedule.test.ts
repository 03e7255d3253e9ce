// One short random schedule a test run, with a seed that is printed when it fails; by hand: npm run test:faults -- --seed=N --acts=200.
import { expect, test } from "vitest";
import { isGood } from "./run-case.ts";
import { runSchedule } from "./schedule.ts";

const acts = 5;

test("random faults one after the other: nothing lost, nothing twice, no invariant broken", {
  timeout: 300_000,
}, async () => {
  const seed = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000);
  const result = await runSchedule({ seed, faults: acts, say: () => {} });
  expect(result, `${result.injected}\n${result.error ?? ""}`).toSatisfy(isGood);
});
