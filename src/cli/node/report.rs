//! What was found, point by point.

use serde::Serialize;

use crate::cli::output;

/// How a point stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It was not looked at.
    Skipped,
    /// It works, or may, but not as well as it could.
    Warning,
    /// Containers will not start, or not from the proxy.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// What it is about.
    pub area: &'static str,
    /// How it stands.
    pub level: Level,
    /// What was found, and where.
    pub what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that was looked at.
#[derive(Debug, Default)]
pub struct Report {
    points: Vec<Point>,
    /// Points that are wrong and not among these.
    more_wrongs: usize,
}

/// Most points; a directory may have any number of files.
const MAX_POINTS: usize = 4096;
/// Longest text of a point, in bytes: parts of it come from files.
const MAX_TEXT: usize = 2000;

impl Report {
    fn add(&mut self, area: &'static str, level: Level, what: String, remedy: Option<String>) {
        if self.points.len() < MAX_POINTS {
            let (what, remedy) = (plain(what), remedy.map(plain));
            self.points.push(Point {
                area,
                level,
                what,
                remedy,
            });
        } else if level == Level::Wrong {
            self.more_wrongs = self.more_wrongs.saturating_add(1);
        }
    }

    /// It is as it should be.
    pub fn ok(&mut self, area: &'static str, what: impl Into<String>) {
        self.add(area, Level::Ok, what.into(), None);
    }

    /// It was not looked at, and why.
    pub fn skipped(&mut self, area: &'static str, what: impl Into<String>) {
        self.add(area, Level::Skipped, what.into(), None);
    }

    /// It could be better; with what to do.
    pub fn warning(
        &mut self,
        area: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(area, Level::Warning, what.into(), Some(remedy.into()));
    }

    /// It is wrong; with what to do.
    pub fn wrong(
        &mut self,
        area: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(area, Level::Wrong, what.into(), Some(remedy.into()));
    }

    /// How many points are wrong.
    pub fn wrongs(&self) -> usize {
        self.count(Level::Wrong)
    }

    fn count(&self, level: Level) -> usize {
        let points = self.points.iter();
        let listed = points.filter(|point| point.level == level).count();
        match level {
            Level::Wrong => listed.saturating_add(self.more_wrongs),
            _ => listed,
        }
    }

    /// Prints it, for people or as one JSON object.
    ///
    /// # Errors
    /// Where standard output cannot be written to.
    pub fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let (wrong, warnings) = (self.count(Level::Wrong), self.count(Level::Warning));
        if as_json {
            return output::json(&serde_json::json!({
                "ok": wrong == 0,
                "wrong": wrong,
                "warnings": warnings,
                "points": self.points,
            }));
        }
        let mut area = "";
        for point in &self.points {
            if point.area != area {
                area = point.area;
                output::line(area)?;
            }
            let word = match point.level {
                Level::Ok => "ok     ",
                Level::Skipped => "-      ",
                Level::Warning => "warning",
                Level::Wrong => "WRONG  ",
            };
            output::line(format_args!("  {word}  {}", point.what))?;
            for line in point.remedy.iter().flat_map(|remedy| remedy.lines()) {
                output::line(format_args!("           > {line}"))?;
            }
        }
        output::line(format_args!(
            "{}, {}",
            output::count(wrong, "point") + " wrong",
            output::count(warnings, "warning")
        ))?;
        Ok(())
    }
}

/// Without characters that steer a terminal, and not too long.
fn plain(text: String) -> String {
    let is_odd = |c: char| c.is_control() && c != '\n';
    if text.len() <= MAX_TEXT && !text.contains(is_odd) {
        return text;
    }
    let mut short: String = text.chars().filter(|c| !is_odd(*c)).collect();
    if short.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !short.is_char_boundary(end) {
            end -= 1;
        }
        short.truncate(end);
        short.push('…');
    }
    short
}
