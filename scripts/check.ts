// The command behind scripts/check: runs the list of checks and says how many passed.
import { runChecks } from "./checks/all.ts";
import { repositoryRoot } from "./checks/repository.ts";

const { passed, failed } = await runChecks(repositoryRoot());
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
