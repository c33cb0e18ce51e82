// From answers of Prometheus to data frames with the panel's field settings, as Grafana makes them: fields are named by
// legend or label, transformations are Grafana's own, overrides are put into each field's settings.

import {
  DataFrame,
  Field,
  FieldConfig,
  FieldType,
  GrafanaTheme2,
  getDisplayProcessor,
  getFieldDisplayName,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';

export type Answer = { refId: string; legend: string; table: boolean; series: Series[] };
type Series = { metric: Record<string, string>; value?: [number, string]; values?: Array<[number, string]> };

export type Panel = {
  id: number;
  type: string;
  title: string;
  description: string;
  gridPos: { x: number; y: number; w: number; h: number };
  options: any;
  fieldConfig: { defaults: any; overrides: Array<{ matcher: { id: string; options: any }; properties: any[] }> };
  transformations?: any[];
  links?: Array<{ title: string; url: string }>;
};

standardTransformersRegistry.setInit(() =>
  // Some stand there under two names.
  [...new Map(Object.values(standardTransformers).map((one: any) => [one.id, one])).values()].map((transformer: any) => ({
    id: transformer.id,
    name: transformer.name,
    transformation: async () => transformer,
    editor: () => null as any,
    imageDark: '',
    imageLight: '',
  }))
);

function legend(format: string, labels: Record<string, string>): string {
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_all, name) => labels[name] ?? '');
}

function table(answer: Answer): DataFrame {
  const labels = [...new Set(answer.series.flatMap((series) => Object.keys(series.metric)))].sort();
  const fields: Field[] = [
    { name: 'Time', type: FieldType.time, config: {}, values: answer.series.map((s) => s.value![0] * 1000) },
    ...labels.map((name) => ({
      name,
      type: FieldType.string,
      config: {},
      values: answer.series.map((series) => series.metric[name] ?? ''),
    })),
    { name: 'Value', type: FieldType.number, config: {}, values: answer.series.map((s) => Number(s.value![1])) },
  ];
  return { refId: answer.refId, fields, length: answer.series.length };
}

function curve(answer: Answer, series: Series, times: number[]): DataFrame {
  const points = series.values ?? [series.value!];
  // No number, such as a quantile of nothing, is a gap.
  const number = (value: string) => (value === 'NaN' ? null : Number(value));
  const known = new Map(points.map(([time, value]) => [Math.round(time * 1000), number(value)]));
  const at = series.values ? times : [...known.keys()];
  const name = legend(answer.legend, series.metric);
  return {
    refId: answer.refId,
    name,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: at },
      {
        name: 'Value',
        type: FieldType.number,
        config: { displayNameFromDS: name },
        labels: series.metric,
        values: at.map((time) => known.get(time) ?? null),
      },
    ],
    length: at.length,
  };
}

/** Sets `a.b.c` in an object. */
function set(target: any, path: string, value: any) {
  const parts = path.split('.');
  const last = parts.pop()!;
  parts.reduce((inner, part) => (inner[part] ??= {}), target)[last] = value;
}

function matches(matcher: { id: string; options: any }, field: Field, frame: DataFrame, all: DataFrame[]): boolean {
  switch (matcher.id) {
    case 'byName':
      return [field.name, getFieldDisplayName(field, frame, all)].includes(matcher.options);
    case 'byType':
      return field.type === matcher.options;
    default:
      throw new Error(`matcher ${matcher.id} is not known to this page`);
  }
}

function configure(panel: Panel, frames: DataFrame[], theme: GrafanaTheme2): DataFrame[] {
  const numbers = frames.flatMap((frame) => frame.fields.filter((field) => field.type === FieldType.number));
  const all = numbers.flatMap((field) => field.values).filter((value) => typeof value === 'number' && !isNaN(value));
  const range = { min: Math.min(...all), max: Math.max(...all), delta: Math.max(...all) - Math.min(...all) };
  let seriesIndex = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      const defaults = structuredClone(panel.fieldConfig.defaults);
      const config: FieldConfig = { ...defaults, ...field.config, custom: defaults.custom ?? {} };
      for (const override of panel.fieldConfig.overrides) {
        if (matches(override.matcher, field, frame, frames)) {
          override.properties.forEach((property) => set(config, property.id, structuredClone(property.value)));
        }
      }
      if (field.type !== FieldType.number) {
        delete config.unit;
        delete config.decimals;
        delete config.min;
        delete config.max;
      }
      field.config = config;
      // The name may be another one now, and panels read it where this puts it.
      field.state = { ...field.state, range, displayName: undefined };
      getFieldDisplayName(field, frame, frames);
      if (field.type === FieldType.number) {
        field.state.seriesIndex = seriesIndex++;
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
      field.getLinks = () =>
        (config.links ?? []).map((link) => ({ href: link.url, title: link.title, target: '_blank', origin: field }));
    }
  }
  return frames;
}

export async function frames(
  panel: Panel,
  answers: Answer[],
  times: number[],
  theme: GrafanaTheme2
): Promise<DataFrame[]> {
  const raw = answers.flatMap((answer) =>
    answer.table ? [table(answer)] : answer.series.map((series) => curve(answer, series, times))
  );
  const transformed = panel.transformations?.length
    ? await firstValueFrom(transformDataFrame(panel.transformations, raw))
    : raw;
  return configure(panel, transformed, theme);
}

