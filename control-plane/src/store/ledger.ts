// The ledger: append-only, micro-dollars. For a job, holds minus releases is jobs.held_micros and charges are
// jobs.spent_micros; both are moved by the operation that writes these rows. One row per attempt, kind, service and provider.
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { CostLine, JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

export type LedgerEntry = {
  readonly jobId: string;
  readonly attemptId: string;
  readonly kind: "hold" | "charge" | "release";
  readonly service: string;
  readonly provider: string;
  readonly micros: Micros;
  readonly basis: JsonObject;
};

export const appendLedger = async (tx: Tx, entries: readonly LedgerEntry[]): Promise<void> => {
  if (entries.length === 0) return;
  await tx.query(
    `insert into ledger (job_id, attempt_id, kind, service, provider, micros, basis)
     select e.job_id, e.attempt_id, e.kind, e.service, e.provider, e.micros, e.basis
     from jsonb_to_recordset($1::jsonb) as e(job_id text, attempt_id text, kind text, service text, provider text, micros bigint, basis jsonb)`,
    [
      JSON.stringify(
        entries.map((e) => ({
          job_id: e.jobId,
          attempt_id: e.attemptId,
          kind: e.kind,
          service: e.service,
          provider: e.provider,
          micros: String(e.micros),
          basis: e.basis,
        })),
      ),
    ],
  );
};

/** What a job was charged, by service and provider. */
export const costsOf = async (tx: Tx, jobId: string): Promise<CostLine[]> =>
  (
    await tx.query<CostLine>(
      `select service, provider, sum(micros)::bigint as micros from ledger where job_id = $1 and kind = 'charge' group by 1, 2 order by 1, 2`,
      [jobId],
    )
  ).rows;
