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
  /** Name of this replica; sessions that it left open when it was killed are found by it. */
  readonly replica: string;
  readonly log: Logger;
  readonly settings: { readonly queueDepth: number; readonly costLimits: CostLimits };
};
