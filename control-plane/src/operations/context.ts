// What every operation gets: the facts, the bells and the data it decides with. No operation reaches for anything else.

import type { Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { AddressSigner } from "../artifacts/address-signer.ts";
import type { ArtifactStore } from "../artifacts/artifact-store.ts";
import type { Bus } from "../bus/bus.ts";
import type { CostLimits } from "../domain/budget.ts";
import type { Pipeline } from "../domain/pipeline.ts";
import type { PriceTable } from "../domain/pricing.ts";
import type { Authority } from "../identity/authority.ts";
import type { Database } from "../store/database.ts";

export type Context = {
  readonly db: Database;
  readonly bus: Bus;
  readonly pipelines: ReadonlyMap<string, Pipeline>;
  readonly prices: PriceTable;
  readonly timings: Timings;
  readonly artifacts: ArtifactStore;
  readonly signer: AddressSigner;
  readonly authority: Authority;
  /** Id of this replica: its name and a suffix of this start. */
  readonly replica: string;
  readonly log: Logger;
  /** A new id: the prefix ("v", "a", "h"), "_" and a ULID. A simulation brings its own, so that a seed replays. */
  readonly newId: (prefix: string) => string;
  readonly settings: Settings;
};

export type Settings = {
  readonly queueDepth: number;
  readonly costLimits: CostLimits;
  readonly concurrency: ConcurrencyLimits;
};

/** How much may run at once; a stage over a limit waits, and `explain` names the limit. */
export type ConcurrencyLimits = {
  /** Jobs that have begun and not ended. */
  readonly jobs: number;
  /** The same of one user. */
  readonly jobsPerUser: number;
  /** Live attempts that use a provider, by provider, e.g. "tts.openai". A provider that is not named has no limit. */
  readonly attemptsPerProvider: ReadonlyMap<string, number>;
};
