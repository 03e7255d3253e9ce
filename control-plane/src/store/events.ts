// The event log. Rows are written inside the transaction of the change they report; the relay numbers them in the order of
// publication, under one lock, so a reader that remembers the last number it saw never misses a row that committed late.
import type { EventRow, JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

export type NewEvent = {
  readonly type: string;
  readonly jobId?: string | undefined;
  readonly hostId?: string | undefined;
  readonly isTerminal?: boolean;
  readonly body: JsonObject;
};

export const appendEvents = async (tx: Tx, events: readonly NewEvent[]): Promise<void> => {
  if (events.length === 0) return;
  await tx.query(
    `insert into events (type, job_id, host_id, is_terminal, body)
     select e.type, e.job_id, e.host_id, e.is_terminal, e.body
     from jsonb_to_recordset($1::jsonb) as e(type text, job_id text, host_id text, is_terminal boolean, body jsonb)`,
    [
      JSON.stringify(
        events.map((e) => ({
          type: e.type,
          job_id: e.jobId ?? null,
          host_id: e.hostId ?? null,
          is_terminal: e.isTerminal ?? false,
          body: e.body,
        })),
      ),
    ],
  );
};

const columns = `published_seq as seq, type, job_id as "jobId", host_id as "hostId", is_terminal as "isTerminal", body, at`;

/** Numbers the next unpublished events. Another replica that is at it makes this one answer nothing. */
export const publishEvents = async (tx: Tx, limit: number): Promise<EventRow[]> => {
  const { rows } = await tx.query<{ isMine: boolean }>(
    `select pg_try_advisory_xact_lock(hashtext('renderplane.relay')) as "isMine"`,
  );
  if (!rows[0]?.isMine) return [];
  return (
    await tx.query<EventRow>(
      `with batch as materialized (select id from events where published_seq is null order by id limit $1),
            numbered as materialized (select id, nextval('event_publications') as seq from (select id from batch order by id) o),
            done as (update events e set published_seq = n.seq from numbered n where e.id = n.id returning e.*)
       select ${columns} from done order by published_seq`,
      [limit],
    )
  ).rows;
};

export const eventsAfter = async (
  tx: Tx,
  r: { readonly seq: bigint; readonly limit: number; readonly jobId?: string | undefined },
): Promise<EventRow[]> =>
  (
    await tx.query<EventRow>(
      `select ${columns} from events where published_seq > $1 and ($2::text is null or job_id = $2) order by published_seq limit $3`,
      [r.seq, r.jobId ?? null, r.limit],
    )
  ).rows;

export const lastEventSeq = async (tx: Tx): Promise<bigint> =>
  (await tx.query<{ seq: bigint }>(`select coalesce(max(published_seq), 0)::bigint as seq from events`)).rows[0]?.seq ??
  0n;
