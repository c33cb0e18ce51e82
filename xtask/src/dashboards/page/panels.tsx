// One component for each type of panel that the dashboards use. What is drawn is Grafana's own: BigValue, BarGauge,
// TimeSeries, TableNG. Only the way from a panel's options to the component's properties is written here, since the
// panel plugins themselves are part of the server.

import React, { useLayoutEffect } from 'react';
import { DataFrame, FieldType, GrafanaTheme2, TimeRange, getDisplayValueAlignmentFactors, reduceField } from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import type { Panel } from './frames';

type Props = {
  panel: Panel;
  frames: DataFrame[];
  width: number;
  height: number;
  theme: GrafanaTheme2;
  range: TimeRange;
  annotations: number[];
};

function lastValues(panel: Panel, frames: DataFrame[]) {
  const reducer = panel.options.reduceOptions.calcs[0];
  return frames.flatMap((frame) =>
    frame.fields
      .filter((field) => field.type === FieldType.number)
      .map((field) => {
        const value = reduceField({ field, reducers: [reducer] })[reducer];
        return { field, display: { ...field.display!(value), title: field.config.displayNameFromDS ?? field.name } };
      })
  );
}

function Stat({ panel, frames, width, height, theme }: Props) {
  const [value] = lastValues(panel, frames);
  return (
    <BigValue
      value={value?.display ?? { text: panel.fieldConfig.defaults.noValue ?? 'No data', numeric: 0 }}
      colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode}
      textMode={panel.options.textMode}
      justifyMode={panel.options.justifyMode}
      width={width}
      height={height}
      theme={theme}
    />
  );
}

function Bars({ panel, frames, width, height, theme }: Props) {
  const values = lastValues(panel, frames);
  return (
    <VizRepeater
      source={values}
      getValues={() => values}
      renderCounter={0}
      width={width}
      height={height}
      orientation={panel.options.orientation}
      minVizHeight={panel.options.minVizHeight}
      minVizWidth={panel.options.minVizWidth}
      maxVizHeight={panel.options.maxVizHeight}
      itemSpacing={8}
      getAlignmentFactors={(all) => getDisplayValueAlignmentFactors(all as any)}
      renderValue={({ value, width, height, alignmentFactors, orientation }) => (
        <BarGauge
          value={value.display}
          field={value.field.config}
          display={value.field.display}
          text={undefined}
          width={width}
          height={height}
          orientation={orientation}
          itemSpacing={8}
          theme={theme}
          alignmentFactors={alignmentFactors}
          displayMode={panel.options.displayMode}
          showUnfilled={panel.options.showUnfilled}
          valueDisplayMode={panel.options.valueMode}
          namePlacement={panel.options.namePlacement}
        />
      )}
    />
  );
}

/** Vertical lines, as Grafana's own annotations look; its plugin for them is not in the library. */
function Annotations({ config, times, theme }: { config: any; times: number[]; theme: GrafanaTheme2 }) {
  useLayoutEffect(() => {
    config.addHook('draw', (plot: any) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName('purple');
      ctx.setLineDash([5, 5]);
      for (const time of times) {
        const x = Math.round(plot.valToPos(time, 'x', true));
        if (x < bbox.left || x > bbox.left + bbox.width) {
          continue;
        }
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(x - 5, bbox.top + bbox.height + 6);
        ctx.lineTo(x + 5, bbox.top + bbox.height + 6);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.fill();
      }
      ctx.restore();
    });
  }, [config]);
  return null;
}

function Curves({ panel, frames, width, height, theme, range, annotations }: Props) {
  return (
    <TimeSeries
      frames={frames}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
      tweakAxis={(axis: any) => axis}
    >
      {(config: any) => <Annotations config={config} times={annotations} theme={theme} />}
    </TimeSeries>
  );
}

function Rows({ panel, frames, width, height, range }: Props) {
  return (
    <TableNG
      data={frames[0]}
      width={width}
      height={height}
      noHeader={!panel.options.showHeader}
      cellHeight={panel.options.cellHeight}
      sortBy={panel.options.sortBy}
      timeRange={range}
      structureRev={1}
      fieldConfig={panel.fieldConfig}
      disableSanitizeHtml={false}
      getActions={() => []}
    />
  );
}

const KINDS: Record<string, React.FC<Props>> = { stat: Stat, bargauge: Bars, timeseries: Curves, table: Rows };

export function Body(props: Props) {
  const Kind = KINDS[props.panel.type];
  if (!Kind) {
    throw new Error(`panel type ${props.panel.type} is not known to this page`);
  }
  if (props.frames.length === 0 || props.frames[0].length === 0) {
    return <div className="empty">No data</div>;
  }
  return <Kind {...props} />;
}
