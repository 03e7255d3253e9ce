// What a measured use costs. Prices are data (prices.yaml); amounts are whole micro-dollars, rounded once, per line.
import { type Micros, microsFromDollars } from "@renderplane/proto/kernel/units.ts";
import { z } from "zod";
import type { JsonObject } from "./records.ts";

const priceTableSchema = z.strictObject({
  version: z.int().min(1),
  prices: z.array(
    z.strictObject({
      service: z.string(),
      provider: z.string().optional(),
      unit: z.string(),
      per: z.number().positive(),
      price: z.number().min(0),
    }),
  ),
});
export type PriceTable = z.output<typeof priceTableSchema>;
export const parsePriceTable = (source: unknown): PriceTable => priceTableSchema.parse(source);

export type UsageRecord = {
  readonly service: string;
  readonly provider: string;
  readonly unit: string;
  readonly quantity: number;
};
export type ChargeLine = {
  readonly service: string;
  readonly provider: string;
  readonly micros: Micros;
  readonly basis: JsonObject;
};

/**
 * One line per service and provider. A use without a price is charged at `estimateMicros`, once per attempt: until somebody
 * sets the price, the budget counts the stage as expected instead of as free.
 */
export const priceUsage = (table: PriceTable, usage: readonly UsageRecord[], estimateMicros: Micros): ChargeLine[] => {
  const lines = new Map<string, ChargeLine>();
  let isEstimateUsed = false;
  for (const use of usage) {
    if (!(use.quantity > 0) || !Number.isFinite(use.quantity)) continue;
    const price = find(table, use);
    const basis: JsonObject = price
      ? { unit: use.unit, quantity: use.quantity, per: price.per, price: price.price, table: table.version }
      : { unit: use.unit, quantity: use.quantity, unpriced: true };
    const micros = price
      ? microsFromDollars((use.quantity / price.per) * price.price)
      : isEstimateUsed
        ? 0n
        : estimateMicros;
    if (!price) isEstimateUsed = true;
    const key = `${use.service}\n${use.provider}`;
    const before = lines.get(key);
    lines.set(key, { service: use.service, provider: use.provider, micros: (before?.micros ?? 0n) + micros, basis });
  }
  return [...lines.values()];
};

const find = (table: PriceTable, use: UsageRecord) =>
  table.prices.find((p) => p.service === use.service && p.provider === use.provider && p.unit === use.unit) ??
  table.prices.find((p) => p.service === use.service && p.provider === undefined && p.unit === use.unit);
