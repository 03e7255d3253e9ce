// The composition root of the agent: the one place that knows all rooms, and the order in which they start and stop.
//   lock → inventory (proves what this host can do) → supervisor (reads the journal, adopts what still runs) → link (says Hello)
// Stopping goes backwards: goodbye first, then the supervisor looks away. Programs are left running under their shims, so
// that a restart or an upgrade of the agent costs no work; unless a drain is set, which empties the host while heartbeats go on.
import { realpathSync } from "node:fs";
import { join } from "node:path";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { Timings } from "@renderplane/proto/kernel/limits.ts";
import { type Lifetime, startAll, stopAll } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import agentPackage from "../package.json" with { type: "json" };
import { type Config, stageConfigOf } from "./config.ts";
import { createLink, type LinkOptions } from "./link/link.ts";
import { createHealthReader } from "./machine/health.ts";
import { createHost } from "./machine/host.ts";
import { readInventory } from "./machine/inventory.ts";
import { folderLock } from "./machine/lock.ts";
import { providersOf } from "./stages/fields.ts";
import { stageKinds } from "./stages/registry.ts";
import { trialStage } from "./stages/trial.ts";
import { createArtifacts } from "./work/artifacts.ts";
import { openCache } from "./work/cache.ts";
import { createSupervisor } from "./work/supervisor.ts";

export type Agent = {
  readonly inventory: Inventory;
  isOpen(): boolean;
  hostId(): string | undefined;
  stop(): Promise<void>;
};

/** Everything but a drain, which has its own limit, under one deadline; systemd's default patience is 90 s. */
const stopLimitMs = 10_000;

export const startAgent = async (
  config: Config,
  log: Logger,
  more: { readonly timings?: Timings; readonly pace?: LinkOptions["pace"] } = {},
): Promise<Agent> => {
  const lock = folderLock(config.dir);
  const parts: Lifetime[] = [];
  await lock.start();
  try {
    // One spelling of the folder: the marker of its processes holds it, and the next agent may be started through a link.
    const dir = realpathSync(config.dir);
    const kinds = [...stageKinds(stageConfigOf(config)), ...(config.trialStages ? [trialStage] : [])];
    const inventory = await readInventory({
      ffmpegPath: config.ffmpegPath,
      ffprobePath: config.ffprobePath,
      espeakPath: config.espeakPath,
      scratchDir: dir,
      stageKinds: kinds.map((kind) => kind.kind),
      providers: providersOf(stageConfigOf(config)),
      tags: config.tags,
    });
    const host = createHost();
    const cache = openCache(join(dir, "cache"), host.bootId);
    const readHealth = createHealthReader(dir, inventory.gpus.length > 0 ? { nvidiaSmi: "nvidia-smi" } : {});
    const link = createLink({
      dir,
      name: config.name,
      agentVersion: agentPackage.version,
      enrolAddress: config.enrolAddress,
      ...(config.sessionAddress === undefined || config.sessionAddress.length === 0
        ? {}
        : { sessionAddress: config.sessionAddress.join() }),
      ...(config.joinToken === undefined ? {} : { joinToken: config.joinToken }),
      inventory: () => inventory,
      health: async () => ({ ...(await readHealth()), ...supervisor.pressure() }),
      ...(more.pace ? { pace: more.pace } : {}),
      log: log.child({ part: "link" }),
    });
    const supervisor = createSupervisor({
      host,
      dir,
      kinds,
      inventory,
      programs: { ffmpeg: config.ffmpegPath, ffprobe: config.ffprobePath, "espeak-ng": config.espeakPath },
      control: link,
      artifacts: createArtifacts(cache),
      cache,
      keepAttempts: config.keepAttempts,
      ...(more.timings ? { timings: more.timings } : {}),
      log: log.child({ part: "work" }),
    });
    link.attach(supervisor);
    parts.push(supervisor, link);
    await startAll(parts);
    log.info(
      { ffmpeg: inventory.ffmpegVersion, encoders: inventory.workingEncoders, kinds: inventory.stageKinds },
      "host described",
    );
    return {
      inventory,
      isOpen: link.isOpen,
      hostId: link.hostId,
      stop: async () => {
        // The session is still open: heartbeats go on, ends are delivered, and Goodbye is said when there is nothing left to say.
        if (config.drainSeconds > 0) await supervisor.drain(config.drainSeconds * 1000);
        await stopAll([lock, ...parts], stopLimitMs, (name, error) =>
          log.error({ err: error, part: name }, "part not stopped in order"),
        );
      },
    };
  } catch (error) {
    await lock.stop();
    throw error;
  }
};
