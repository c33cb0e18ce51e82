// What the dashboards have to fit: Grafana's own types, with enumerations as the words that stand in JSON. xtask puts
// the dashboards behind this and lets the compiler look.

import type {
  AnnotationQuery,
  Dashboard as Whole,
  GraphFieldConfig,
  SingleStatBaseOptions,
  TableFieldOptions,
  TableCellHeight,
  TableSortByFieldState,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  BarGaugeDisplayMode,
  BarGaugeNamePlacement,
  BarGaugeSizing,
  BarGaugeValueMode,
  OptionsWithLegend,
  OptionsWithTooltip,
  PercentChangeColorMode,
} from '@grafana/schema';

type Plain<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer Item>
      ? Array<Plain<Item>>
      : T extends object
        ? { [Key in keyof T]: Plain<T[Key]> }
        : T;

// What an annotation asks is its data source's business: here the plugin for Prometheus's.
interface PrometheusAnnotation {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  useValueForTime: boolean;
}

type Dashboard = Omit<Whole, 'annotations'> & { annotations: { list: Array<AnnotationQuery & PrometheusAnnotation> } };

interface Options {
  stat: Plain<
    SingleStatBaseOptions & {
      colorMode: BigValueColorMode;
      graphMode: BigValueGraphMode;
      justifyMode: BigValueJustifyMode;
      textMode: BigValueTextMode;
      wideLayout: boolean;
      showPercentChange: boolean;
      percentChangeColorMode: PercentChangeColorMode;
    }
  >;
  bargauge: Plain<
    SingleStatBaseOptions & {
      displayMode: BarGaugeDisplayMode;
      valueMode: BarGaugeValueMode;
      namePlacement: BarGaugeNamePlacement;
      showUnfilled: boolean;
      sizing: BarGaugeSizing;
      minVizWidth: number;
      minVizHeight: number;
      maxVizHeight: number;
    } & OptionsWithLegend
  >;
  timeseries: Plain<OptionsWithLegend & OptionsWithTooltip>;
  table: Plain<{ showHeader: boolean; cellHeight?: TableCellHeight; sortBy?: TableSortByFieldState[] }>;
}

interface Custom {
  timeseries: Plain<GraphFieldConfig>;
  table: Plain<TableFieldOptions>;
}

