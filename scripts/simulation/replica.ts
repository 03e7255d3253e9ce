// A replica of the control plane as the simulation plays it: the real operations on a context of its own, which can die before any
// statement or after any commit. What it published is kept, to be compared with what was committed.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Context } from "../../control-plane/src/operations/context.ts";
import type { Database } from "../../control-plane/src/store/database.ts";
import { behindGates, type Gates } from "../../control-plane/src/testing/statement-gates.ts";
import type { Fault } from "./plan.ts";

/** The process died here. Nobody gets an answer. */
export class ReplicaDied extends Error {}

export type Replica = {
  readonly index: number;
  /** Changes with every start. */
  id: string;
  starts: number;
  isUp: boolean;
  /** Streams that it holds, by host. */
  readonly streams: Map<string, bigint>;
};

export const createReplica = (index: number): Replica => ({
  index,
  id: `r${index}.00000000`,
  starts: 0,
  isUp: true,
  streams: new Map(),
});

/** Where an operation runs: its own connections, and the gates of a strand when it runs beside others. */
export type Lane = {
  readonly db: Database;
  readonly strand?: (inner: Gates) => Gates;
};

export type Outcome<T> =
  | { readonly kind: "answer"; readonly value: T }
  | { readonly kind: "refused"; readonly code: string }
  | { readonly kind: "died" };

/** Runs one operation on a replica. A dead replica does nothing. Any error but a refusal of the product is thrown. */
export const runOn = async <T>(
  replica: Replica,
  lane: Lane,
  base: Omit<Context, "db" | "replica">,
  fault: Fault | undefined,
  act: (ctx: Context) => Promise<T>,
): Promise<Outcome<T>> => {
  if (!replica.isUp) return { kind: "died" };
  const life = replica.starts;
  let statements = 0;
  let commits = 0;
  const die = () => {
    replica.isUp = false;
    throw new ReplicaDied();
  };
  const live = () => {
    // Another operation of the same process may have killed it, and it may even be up again as another process.
    if (!replica.isUp || replica.starts !== life) throw new ReplicaDied();
  };
  const gates: Gates = {
    before: () => {
      live();
      if (fault?.kind === "abort" && ++statements === fault.at) die();
    },
    after: () => {},
    committed: () => {
      if (fault?.kind === "deaf" && ++commits === fault.at) die();
    },
  };
  const ctx = { ...base, replica: replica.id, db: behindGates(lane.db, lane.strand ? lane.strand(gates) : gates) };
  try {
    const value = await act(ctx);
    live();
    return { kind: "answer", value };
  } catch (error) {
    if (error instanceof ReplicaDied) return { kind: "died" };
    if (error instanceof RenderplaneError && error.code !== "internal") return { kind: "refused", code: error.code };
    throw error;
  }
};
