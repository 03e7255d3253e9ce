// A database whose statements are explained before they run: the first of each text, with its parameters, inside the transaction that
// sends it, once as planned for these parameters and once as a connection plans it that has sent it often (the one that long-lived
// connections use), then run for real and rolled back, so that the rows it read are counted and not estimated.
// Only tests import this. The statement itself then runs as if nothing had happened.
import { escapeLiteral } from "pg";
import type { Database, Tx } from "./database.ts";

/** A scan of one relation, with what it read. */
export type Scan = { readonly node: string; readonly relation: string; readonly rows: number };
export type Explained = {
  readonly sql: string;
  readonly scans: readonly Scan[];
  readonly ms: number;
};

type Node = {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Actual Rows"?: number;
  readonly "Actual Loops"?: number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Rows Removed by Index Recheck"?: number;
  readonly Plans?: readonly Node[];
};
type Plan = { readonly Plan: Node; readonly "Execution Time"?: number };

/** So often the server plans for the parameters before it may settle for one plan for all. */
const customPlans = 5;

export const explaining = (db: Database): { readonly db: Database; readonly explained: () => readonly Explained[] } => {
  const seen = new Map<string, Explained>();
  const watched = (tx: Tx, inTransaction: boolean): Tx => ({
    query: async (sql, params = []) => {
      if (!seen.has(sql) && mayBeExplained.test(sql)) {
        seen.set(sql, { sql, scans: [], ms: 0 });
        if (inTransaction) seen.set(sql, await explain(tx, sql, params));
        else await db.transaction(async (own) => void seen.set(sql, await explain(own, sql, params)));
      }
      return params.length === 0 ? tx.query(sql) : tx.query(sql, params);
    },
  });
  return {
    explained: () => [...seen.values()],
    db: {
      ...db,
      direct: watched(db.direct, false),
      transaction: (act) => db.transaction((tx) => act(watched(tx, true))),
    },
  };
};

const mayBeExplained = /^\s*(select|with|insert|update|delete)\b/i;

const explain = async (tx: Tx, sql: string, params: readonly unknown[]): Promise<Explained> => {
  await tx.query("savepoint explained");
  try {
    await tx.query(`prepare explained as ${sql}`);
    const call = `execute explained${params.length === 0 ? "" : `(${params.map(literal).join(", ")})`}`;
    const planned = await planOf(tx, `explain (format json) ${call}`);
    for (let i = 1; i < customPlans; i++) await tx.query(`explain ${call}`);
    const run = await planOf(tx, `explain (analyze, timing off, format json) ${call}`);
    // Rows of the first plan are not counted: it stands for what a seldom statement does, and a whole table is wrong there, too.
    const whole = scansOf(planned.Plan).filter((scan) => scan.node === "Seq Scan");
    return { sql, scans: [...whole, ...scansOf(run.Plan)], ms: run["Execution Time"] ?? 0 };
  } finally {
    await tx.query("rollback to savepoint explained");
    await tx.query("deallocate explained");
  }
};

const planOf = async (tx: Tx, text: string): Promise<Plan> => {
  const { rows } = await tx.query<{ "QUERY PLAN": readonly Plan[] }>(text);
  const plan = rows[0]?.["QUERY PLAN"][0];
  if (!plan) throw new Error(`no plan came back for ${text}`);
  return plan;
};

const scansOf = (node: Node): Scan[] => {
  const relation = node["Relation Name"] ?? node["Index Name"];
  const read =
    ((node["Actual Rows"] ?? 0) +
      (node["Rows Removed by Filter"] ?? 0) +
      (node["Rows Removed by Index Recheck"] ?? 0)) *
    (node["Actual Loops"] ?? 0);
  const own =
    relation !== undefined && node["Node Type"].endsWith("Scan")
      ? [{ node: node["Node Type"], relation, rows: Math.round(read) }]
      : [];
  return [...own, ...(node.Plans ?? []).flatMap(scansOf)];
};

/** As the driver would send it: text that the server reads as the parameter's type. */
const literal = (value: unknown): string =>
  value === null || value === undefined ? "null" : escapeLiteral(textOf(value));
const textOf = (value: unknown): string => {
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return `{${value.map(element).join(",")}}`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
};
const element = (value: unknown): string =>
  value === null || value === undefined ? "null" : `"${textOf(value).replace(/[\\"]/g, "\\$&")}"`;
