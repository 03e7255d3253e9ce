// Everything that a history has committed, in one statement, as the judges want it.
import type { Tx } from "../../control-plane/src/store/database.ts";

export type JobFacts = {
  readonly id: string;
  readonly state: string;
  readonly held: number;
  readonly spent: number;
  readonly end: string | null;
  readonly started: boolean;
};
export type StageFacts = {
  readonly id: number;
  readonly job: string;
  readonly name: string;
  readonly state: string;
  readonly fence: number | null;
  readonly attempts: number;
  readonly needs: readonly string[];
  readonly end: string | null;
};
export type AttemptFacts = {
  readonly id: string;
  readonly stage: number;
  readonly job: string;
  readonly host: string;
  readonly number: number;
  readonly fence: number;
  readonly state: string;
  readonly outcome: string | null;
  readonly charge: number;
  readonly started: string | null;
  readonly end: string | null;
};
export type LineFacts = {
  readonly job: string;
  readonly attempt: string;
  readonly kind: string;
  readonly micros: number;
};
export type EventFacts = {
  readonly id: number;
  readonly type: string;
  readonly job: string | null;
  readonly terminal: boolean;
  readonly seq: number | null;
  readonly stage: string | null;
  readonly attempt: string | null;
};
export type HostFacts = { readonly id: string; readonly epoch: number };
export type Snapshot = {
  readonly jobs: readonly JobFacts[];
  readonly stages: readonly StageFacts[];
  readonly attempts: readonly AttemptFacts[];
  readonly ledger: readonly LineFacts[];
  readonly events: readonly EventFacts[];
  readonly hosts: readonly HostFacts[];
};

const rows = (fields: string, table: string, order: string) =>
  `coalesce((select json_agg(json_build_object(${fields}) order by ${order}) from ${table}), '[]')`;

const statement = `select json_build_object(
  'jobs', ${rows(`'id', id, 'state', state, 'held', held_micros, 'spent', spent_micros, 'end', ended_at, 'started', started_at is not null`, "jobs", "id")},
  'stages', ${rows(`'id', id, 'job', job_id, 'name', name, 'state', state, 'fence', output_fence, 'attempts', attempts, 'needs', spec -> 'needs', 'end', ended_at`, "stages", "id")},
  'attempts', ${rows(`'id', id, 'stage', stage_id, 'job', job_id, 'host', host_id, 'number', number, 'fence', fence, 'state', state, 'outcome', outcome, 'charge', charge_micros, 'started', started_at, 'end', ended_at`, "attempts", "stage_id, number")},
  'ledger', ${rows(`'job', job_id, 'attempt', attempt_id, 'kind', kind, 'micros', micros`, "ledger", "id")},
  'events', ${rows(`'id', id, 'type', type, 'job', job_id, 'terminal', is_terminal, 'seq', published_seq, 'stage', body ->> 'stage', 'attempt', body ->> 'attempt'`, "events", "id")},
  'hosts', ${rows(`'id', id, 'epoch', epoch`, "hosts", "id")}
) as facts where $1`;

export const takeSnapshot = async (tx: Tx): Promise<Snapshot> => {
  const { rows: found } = await tx.query<{ facts: Snapshot }>(statement, [true]);
  const facts = found[0]?.facts;
  if (facts === undefined) throw new Error("the snapshot is empty");
  return facts;
};
