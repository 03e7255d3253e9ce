// One agent a folder: two on one journal would run and report the same attempts twice. The lock is an abstract unix socket,
// which the kernel gives back the moment its owner is gone, also after a kill -9. Such a name is private to a network
// namespace, so a file with the owner's identity stands beside it for two containers that share a folder.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { identityOf, isAlive, readBootId } from "./proc.ts";

/** Throws ConfigError when another agent holds the folder. */
export const folderLock = (dir: string): Lifetime => {
  const server = createServer((socket) => socket.destroy());
  const file = join(dir, "agent.lock");
  const refusal = () =>
    new ConfigError(
      `RENDERPLANE_AGENT_DIR ${dir} belongs to a running agent${ownerText(file)}. Stop that one, or give this one a folder of its own.`,
    );
  let isHeld = false;
  return {
    name: "lock",
    start: async () => {
      if (isHeld) return;
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      const digest = createHash("sha256").update(realpathSync(dir)).digest("hex").slice(0, 32);
      await new Promise<void>((resolve, reject) => {
        server.once("error", (error) =>
          reject("code" in error && error.code === "EADDRINUSE" ? refusal() : new ConfigError(`agent.lock: ${error}`)),
        );
        server.listen({ path: `\0renderplane-agent-${digest}` }, resolve);
      });
      // A visitor that cannot be let in (no descriptor is left) is no reason to end.
      server.on("error", () => {});
      server.unref();
      const owner = readOwner(file);
      if (owner && owner.pid !== process.pid && isAlive(owner, readBootId())) {
        server.close();
        throw refusal();
      }
      writeFileSync(file, JSON.stringify(identityOf(process.pid)), { mode: 0o600 });
      isHeld = true;
    },
    stop: async () => {
      if (!isHeld) return;
      isHeld = false;
      rmSync(file, { force: true });
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
};

const readOwner = (file: string): { pid: number; start: string; boot: string } | undefined => {
  try {
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (typeof value !== "object" || value === null) return undefined;
    const { pid, start, boot } = { pid: 0, start: "", boot: "", ...value };
    return { pid: Number(pid), start: String(start), boot: String(boot) };
  } catch {
    return undefined;
  }
};

const ownerText = (file: string): string => {
  const owner = readOwner(file);
  return owner ? ` (pid ${owner.pid})` : "";
};
