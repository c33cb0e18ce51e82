// A dashboard on a page: its head, its rows, its panels where they belong. What Prometheus answered stands in
// `window.portcullis`, put there by xtask; whatever goes wrong stands in the page's title.

import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { DataFrame, ThemeContext, createTheme, dateTime } from '@grafana/data';
import { GlobalStyles, PanelChrome } from '@grafana/ui';
import { Answer, Panel, frames as framesOf } from './frames';
import { Body } from './panels';

type Input = {
  dashboard: any;
  from: number;
  to: number;
  step: number;
  answers: Record<string, Answer[]>;
  annotations: number[];
};

const input: Input = (window as any).portcullis;
const CELL = 30;
const GAP = 8;
const WIDTH = 1600;
const HEAD = 64;
const theme = createTheme({ colors: { mode: 'dark' } });
const range = {
  from: dateTime(input.from),
  to: dateTime(input.to),
  raw: { from: dateTime(input.from), to: dateTime(input.to) },
};
const times: number[] = [];
for (let time = input.from; time <= input.to; time += input.step) {
  times.push(time);
}

function place({ x, y, w, h }: Panel['gridPos']): React.CSSProperties {
  const column = (WIDTH - GAP) / 24;
  return {
    position: 'absolute',
    left: GAP + x * column,
    top: HEAD + y * (CELL + GAP),
    width: w * column - GAP,
    height: h * (CELL + GAP) - GAP,
  };
}

function Chip({ name, value }: { name: string; value: string }) {
  return (
    <span style={{ display: 'inline-flex', marginRight: 8, fontSize: 12, lineHeight: '28px' }}>
      <span style={{ background: theme.colors.background.secondary, padding: '0 8px' }}>{name}</span>
      <span style={{ border: `1px solid ${theme.colors.border.medium}`, padding: '0 8px' }}>{value}</span>
    </span>
  );
}

function Head() {
  const clock = (time: number) => new Date(time).toISOString().slice(11, 19);
  return (
    <div style={{ position: 'absolute', left: GAP * 2, right: GAP * 2, top: 14, display: 'flex' }}>
      <strong style={{ fontSize: 18, marginRight: 24, lineHeight: '30px' }}>{input.dashboard.title}</strong>
      {input.dashboard.templating.list.map((variable: any) => (
        <Chip
          key={variable.name}
          name={variable.label}
          value={variable.type === 'datasource' ? 'Prometheus' : 'All'}
        />
      ))}
      <span style={{ marginLeft: 'auto', lineHeight: '30px', fontSize: 12 }}>
        {clock(input.from)} to {clock(input.to)} UTC
      </span>
    </div>
  );
}

function Draw({ panel }: { panel: Panel }) {
  const [frames, setFrames] = useState<DataFrame[]>();
  useEffect(() => {
    framesOf(panel, input.answers[panel.id] ?? [], times, theme).then(setFrames, failed);
  }, [panel]);
  const spot = place(panel.gridPos);
  if (panel.type === 'row') {
    return <div style={{ ...spot, fontSize: 16, fontWeight: 500, padding: '4px 8px' }}>⌄ {panel.title}</div>;
  }
  return (
    <div style={spot}>
      <PanelChrome title={panel.title} width={Number(spot.width)} height={Number(spot.height)} description={panel.description}>
        {(width, height) =>
          frames && (
            <Body
              panel={panel}
              frames={frames}
              width={width}
              height={height}
              theme={theme}
              range={range}
              annotations={input.annotations}
            />
          )
        }
      </PanelChrome>
    </div>
  );
}

function failed(error: unknown) {
  document.title = `failed: ${error instanceof Error ? error.stack : error}`;
}

window.addEventListener('error', (event) => failed(event.error ?? event.message));
window.addEventListener('unhandledrejection', (event) => failed(event.reason));

class Guard extends React.Component<{ children: React.ReactNode }> {
  state = { broken: false };
  static getDerivedStateFromError() {
    return { broken: true };
  }
  componentDidCatch(error: Error) {
    failed(error);
  }
  render() {
    return this.state.broken ? <div className="empty">failed</div> : this.props.children;
  }
}

const style = document.createElement('style');
style.textContent = `body { margin: 0; width: ${WIDTH}px; overflow: hidden; }
  .empty { display: flex; height: 100%; align-items: center; justify-content: center; opacity: 0.7; }`;
document.head.append(style);
createRoot(document.getElementById('page')!).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <Head />
    {input.dashboard.panels.map((panel: Panel) => (
      <Guard key={panel.id}>
        <Draw panel={panel} />
      </Guard>
    ))}
  </ThemeContext.Provider>
);
