// One runner for every room. Tests start real processes, so files run two at a time on the two cores of CI.
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{proto,agent,control-plane,scripts}/**/*.test.ts"],
    exclude: ["**/node_modules/**"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
