// What must hold after every story and fault, asked of the database itself. Numbers are those of the invariants the design lists.
// These hold at any instant, so one statement reads all of them from one snapshot: a fleet that works on cannot make two of them
// disagree. What only holds once a fleet is quiet, and what its folders and processes say, is asked by fleet-invariants.ts.
// I14 and I15 are about commands and terminals, which are not there yet; I20 is a matter of gauges, not of rows.

/** What is wrong, by its name; the query answers one text a violation: what it is about. */
export type Invariants = { readonly [name: string]: string };
export type Sql = (text: string) => Promise<unknown[]>;

const leased = "('offered', 'running', 'cancelling')";
const finalStage = "('succeeded', 'failed', 'cancelled', 'skipped')";

export const instantInvariants: Invariants = {
  "I1 more than one live attempt of a stage": `select stage_id::text from attempts where state <> 'ended' group by stage_id having count(*) > 1`,
  "I2 fences do not grow with the attempt number": `select a.id from attempts a join attempts b on a.stage_id = b.stage_id and a.number < b.number and a.fence >= b.fence`,
  "I2 a fence was given that its sequence has not reached": `select id from attempts where fence > (select last_value from fences)`,
  "I3 a published fence is not that of the succeeded attempt": `select s.id::text from stages s where s.output_fence is not null and not exists
    (select 1 from attempts a where a.stage_id = s.id and a.fence = s.output_fence and a.outcome = 'succeeded')`,
  "I3 a succeeded attempt whose fence was not published": `select a.id from attempts a join stages s on s.id = a.stage_id
    where a.outcome = 'succeeded' and s.output_fence is distinct from a.fence`,
  "I3 files of an attempt that did not succeed": `select f.job_id || '/' || f.stage || '/' || f.name from files f join stages s on s.job_id = f.job_id and s.name = f.stage
    where f.stage <> '' and s.output_fence is distinct from f.fence`,
  "I4 a live job in which nothing can happen": `select j.id from jobs j where j.ended_at is null and not exists
    (select 1 from stages s where s.job_id = j.id and s.state in ('ready', 'waiting', 'blocked', 'offered', 'running', 'cancelling'))`,
  "I4 a stage that waits for nothing is not in the queue": `select s.id::text from stages s join jobs j on j.id = s.job_id
    where s.state = 'pending' and s.open_needs = 0 and j.ended_at is null`,
  "I4 open needs are not those that have not succeeded": `select s.id::text from stages s where s.state = 'pending' and s.open_needs <>
    (select count(*) from jsonb_array_elements_text(s.spec -> 'needs') n join stages d on d.job_id = s.job_id and d.name = n where d.state <> 'succeeded')`,
  "I5 a final job without exactly one terminal event": `select j.id from jobs j left join events e on e.job_id = j.id and e.is_terminal
    group by j.id, j.ended_at having (j.ended_at is not null) <> (count(e.id) = 1)`,
  "I5 a terminal event that says something else than the job": `select j.id from jobs j join events e on e.job_id = j.id and e.is_terminal where e.type <> 'job.' || j.state`,
  "I6 a job ended while a stage of it can still move": `select j.id from jobs j join stages s on s.job_id = j.id where j.ended_at is not null and s.state not in ${finalStage}`,
  "I6 a job's end is not what its stages say": `select j.id from jobs j join stages s on s.job_id = j.id where j.ended_at is not null group by j.id, j.state
    having (j.state = 'completed') <> bool_and(s.state = 'succeeded') or (j.state = 'failed') <> bool_or(s.state = 'failed')`,
  "I7 held is not the sum of holds minus releases": `select j.id from jobs j left join ledger l on l.job_id = j.id group by j.id, j.held_micros
    having j.held_micros <> coalesce(sum(case l.kind when 'hold' then l.micros when 'release' then -l.micros else 0 end), 0)`,
  "I7 spent is not the sum of charges": `select j.id from jobs j left join ledger l on l.job_id = j.id and l.kind = 'charge' group by j.id, j.spent_micros
    having j.spent_micros <> coalesce(sum(l.micros), 0)`,
  "I7 an attempt's charge is not the sum of its charges": `select a.id from attempts a left join ledger l on l.attempt_id = a.id and l.kind = 'charge' group by a.id, a.charge_micros
    having a.charge_micros <> coalesce(sum(l.micros), 0)`,
  // A charge may pass its hold, because work is paid for as measured; nothing else may pass the line.
  "I8 more is held and spent than the job may cost": `select j.id from jobs j where j.held_micros > 0 and j.held_micros + j.spent_micros > j.halt_micros
    + coalesce((select sum(greatest(a.charge_micros - a.hold_micros, 0)) from attempts a where a.job_id = j.id), 0)`,
  "I9 an ended attempt without exactly one hold and one release": `select a.id from attempts a left join ledger l on l.attempt_id = a.id
    group by a.id, a.state having count(*) filter (where l.kind = 'hold') <> 1 or count(*) filter (where l.kind = 'release') <> (a.state = 'ended')::int`,
  "I9 hold and release of an attempt differ": `select a.id from attempts a join ledger l on l.attempt_id = a.id and l.kind in ('hold', 'release') where l.micros <> a.hold_micros`,
  "I9 a charge for an attempt that never began or has not ended": `select a.id from attempts a join ledger l on l.attempt_id = a.id and l.kind = 'charge'
    where a.started_at is null or a.state <> 'ended'`,
  "I10 a stage was completed twice": `select job_id || '/' || (body ->> 'stage') from events where type = 'stage.completed' group by job_id, body ->> 'stage' having count(*) > 1`,
  "I10 an accept was applied twice": `select body ->> 'attempt' from events where type = 'stage.started' and body ? 'attempt' group by body ->> 'attempt' having count(*) > 1`,
  "I12 an attempt was offered to a session that the host never had": `select a.id from attempts a join hosts h on h.id = a.host_id where a.offered_epoch > h.epoch`,
  "I12 a host's epoch is behind its sessions": `select h.id from hosts h join host_sessions s on s.host_id = h.id where s.epoch > h.epoch`,
  "I17 a stage began before what it needs": `select s.id::text from stages s, jsonb_array_elements_text(s.spec -> 'needs') n join stages d on d.name = n
    where d.job_id = s.job_id and s.attempts > 0 and d.state <> 'succeeded'`,
  "I18 a stage was tried more often than its pipeline allows": `select id::text from stages where tries > 1 + (spec ->> 'retries')::int`,
  "I18 tries that no attempt accounts for": `select s.id::text from stages s where s.tries >
    (select count(*) from attempts a where a.stage_id = s.id and a.outcome in ('succeeded', 'failed', 'lost'))`,
  "I18 attempts are not numbered as they came": `select s.id::text from stages s left join attempts a on a.stage_id = s.id group by s.id, s.attempts
    having s.attempts <> count(a.id) or s.attempts <> coalesce(max(a.number), 0)`,
  "a leased stage without a live attempt, or the reverse": `select s.id::text from stages s left join attempts a on a.stage_id = s.id and a.state <> 'ended'
    where (s.state in ${leased}) <> (a.id is not null)`,
};

/** Invariants that hold at any instant; answers what is broken, with the first rows it is about. */
export const brokenInvariants = (sql: Sql): Promise<string[]> => brokenOf(sql, instantInvariants);

/** Asks a table of invariants in one statement, so that all of them see one snapshot. */
export const brokenOf = async (sql: Sql, invariants: Invariants): Promise<string[]> => {
  const parts = Object.entries(invariants).map(
    ([name, query], place) =>
      `select ${place} as place, '${name.replaceAll("'", "''")}' as name, array_agg(what)::text[] as "rows"
       from (select what from (${query}) as q(what) limit ${shownRows}) as shown having count(*) > 0`,
  );
  if (parts.length === 0) return [];
  const rows = (await sql(`${parts.join("\nunion all\n")}\norder by place`)) as readonly {
    readonly name: string;
    readonly rows: readonly string[];
  }[];
  return rows.map((row) => `${row.name}: ${row.rows.join(", ")}`);
};

/** Enough to look at; a broken rule breaks everywhere. */
const shownRows = 3;
