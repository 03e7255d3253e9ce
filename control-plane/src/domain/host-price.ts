// What an hour on a host costs: the host's own tag, or the price table for the cores and GPUs that a stage would hold there.
import type { PriceTable } from "./pricing.ts";
import type { HostRow } from "./records.ts";
import { hasWorkingGpu } from "./room.ts";

/** A tag like usd-per-hour-1.25: what the whole host costs. */
const priceTag = /^usd-per-hour-(\d{1,4}(?:\.\d{1,4})?)$/;

/** Dollars an hour of what a stage would hold: its part of the host's own price, or core and GPU hours of the price table. */
export const costPerHour = (
  host: HostRow,
  cores: number,
  usesGpu: boolean,
  prices: { readonly corePrice: number; readonly gpuPrice: number },
): number => {
  const tag = host.inventory.tags?.map((t) => priceTag.exec(t)?.[1]).find((price) => price !== undefined);
  if (tag !== undefined) return (Number(tag) * cores) / Math.max(1, host.inventory.cores);
  return prices.corePrice * cores + (usesGpu && hasWorkingGpu(host) ? prices.gpuPrice : 0);
};

/** Dollars of an hour of a core and of a GPU in the price table; 0 where it has no such line. */
export const hourlyPrices = (table: PriceTable): { readonly corePrice: number; readonly gpuPrice: number } => {
  const hour = (service: string, unit: string) => {
    const line = table.prices.find((p) => p.service === service && p.unit === unit);
    return line ? (3600 / line.per) * line.price : 0;
  };
  return { corePrice: hour("cpu_compute", "core_second"), gpuPrice: hour("gpu_compute", "gpu_second") };
};
