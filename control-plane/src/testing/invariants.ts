// What must hold after every story and fault, asked of the database itself. Numbers are those of the invariants the design lists.

/** Invariants of the ledger and the attempts that must hold after every story; answers what is broken. */
export const brokenInvariants = async (sql: (text: string) => Promise<unknown[]>): Promise<string[]> => {
  const checks: Record<string, string> = {
    "I1 more than one live attempt of a stage": `select stage_id from attempts where state <> 'ended' group by 1 having count(*) > 1`,
    "I2 fences do not grow with the attempt number": `select 1 from attempts a join attempts b on a.stage_id = b.stage_id and a.number < b.number and a.fence >= b.fence`,
    "I3 a published fence is not that of the succeeded attempt": `select 1 from stages s where s.output_fence is not null and not exists
      (select 1 from attempts a where a.stage_id = s.id and a.fence = s.output_fence and a.outcome = 'succeeded')`,
    "I5 a final job without exactly one terminal event": `select j.id from jobs j left join events e on e.job_id = j.id and e.is_terminal
      group by j.id, j.ended_at having (j.ended_at is not null) <> (count(e.id) = 1)`,
    "I7 held is not the sum of holds minus releases": `select j.id from jobs j left join ledger l on l.job_id = j.id group by j.id, j.held_micros
      having j.held_micros <> coalesce(sum(case l.kind when 'hold' then l.micros when 'release' then -l.micros else 0 end), 0)`,
    "I7 spent is not the sum of charges": `select j.id from jobs j left join ledger l on l.job_id = j.id and l.kind = 'charge' group by j.id, j.spent_micros
      having j.spent_micros <> coalesce(sum(l.micros), 0)`,
    "I9 an ended attempt without exactly one hold and one release": `select a.id from attempts a left join ledger l on l.attempt_id = a.id
      group by a.id, a.state having count(*) filter (where l.kind = 'hold') <> 1 or count(*) filter (where l.kind = 'release') <> (a.state = 'ended')::int`,
    "I4 a live job in which nothing can happen": `select j.id from jobs j where j.ended_at is null and not exists
      (select 1 from stages s where s.job_id = j.id and s.state in ('ready', 'offered', 'running', 'waiting', 'cancelling'))`,
    "a leased stage without a live attempt, or the reverse": `select s.id from stages s left join attempts a on a.stage_id = s.id and a.state <> 'ended'
      where (s.state in ('offered', 'running', 'cancelling')) <> (a.id is not null)`,
    "I17 a stage began before what it needs": `select s.id from stages s, jsonb_array_elements_text(s.spec -> 'needs') n join stages d on d.name = n
      where d.job_id = s.job_id and s.attempts > 0 and d.state <> 'succeeded'`,
  };
  const broken: string[] = [];
  for (const [name, text] of Object.entries(checks)) if ((await sql(text)).length > 0) broken.push(name);
  return broken;
};
