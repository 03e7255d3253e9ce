// Which replica of the control plane to dial: the one that worked last, else any of those in the settings, else one that a replica
// named. Names from replicas are hints on disk; certificate and name of whoever answers are checked as always.
// Keeps: every address is tried once before one is tried again, in random order, so that a fleet spreads by itself.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { splitAddress } from "./client.ts";

/** More replicas than this are not worth remembering. */
const maxHints = 16;

export type AddressBook = {
  next(): string;
  worked(address: string): void;
  failed(address: string): void;
  /** Another one than this: the wished one, or any; undefined when no other is known. */
  otherThan(address: string, wished: string): string | undefined;
  remember(addresses: readonly string[]): void;
  count(): number;
};

export const createAddressBook = (options: {
  readonly dir: string;
  /** At least one. */
  readonly configured: () => readonly string[];
  readonly log: Logger;
  readonly random?: () => number;
}): AddressBook => {
  const random = options.random ?? Math.random;
  const path = join(options.dir, "addresses.json");
  let hints = readHints(path);
  let preferred: string | undefined;
  const failed = new Set<string>();
  const anyOf = (addresses: readonly string[]) => addresses[Math.floor(random() * addresses.length)];
  const all = () => [...new Set([...options.configured(), ...hints])];
  const fresh = (addresses: readonly string[]) => addresses.filter((address) => !failed.has(address));

  return {
    next: () => {
      if (fresh(all()).length === 0) failed.clear();
      if (preferred !== undefined && !failed.has(preferred)) return preferred;
      const found = anyOf(fresh(options.configured())) ?? anyOf(fresh(hints));
      if (found === undefined) throw new Error("the agent has no address of a control plane");
      return found;
    },
    worked: (address) => {
      preferred = address;
      failed.clear();
    },
    failed: (address) => {
      failed.add(address);
    },
    otherThan: (address, wished) => {
      if (wished !== "") return isAddress(wished) && wished !== address ? wished : undefined;
      return anyOf(all().filter((other) => other !== address));
    },
    remember: (addresses) => {
      // A replica that is down now may be the only one that is up next: it is named no more, and kept behind those that are.
      const named = [...new Set([...addresses.filter(isAddress), ...hints])].slice(0, maxHints);
      if (named.join() === hints.join()) return;
      hints = named;
      try {
        mkdirSync(options.dir, { recursive: true, mode: 0o700 });
        writeFileSync(`${path}.new`, JSON.stringify({ version: 1, addresses: named }), { mode: 0o600 });
        renameSync(`${path}.new`, path);
      } catch (error) {
        options.log.warn({ err: error }, "the addresses of the replicas could not be written down");
      }
    },
    count: () => all().length,
  };
};

/** A name for every interface is none to dial. */
const isAddress = (text: string): boolean => {
  try {
    const { host } = splitAddress(text);
    return host !== "" && host !== "0.0.0.0" && host !== "::";
  } catch {
    return false;
  }
};

/** Hints only: a file that cannot be read holds none. */
const readHints = (path: string): readonly string[] => {
  try {
    const value: unknown = JSON.parse(readFileSync(path, "utf8"));
    const list = typeof value === "object" && value !== null && "addresses" in value ? value.addresses : [];
    return Array.isArray(list)
      ? list.filter((entry) => typeof entry === "string" && isAddress(entry)).slice(0, maxHints)
      : [];
  } catch {
    return [];
  }
};
