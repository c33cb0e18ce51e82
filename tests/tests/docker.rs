//! The agent and its absence on a real Docker Engine: one host for all tests, since it is slow to start.

use lab::docker_lab::DockerLab;

#[test]
fn scenario_0_without_the_agent_everything_is_reachable() {
    let lab = DockerLab::start(&|step| println!("{step}")).unwrap();
    let mut matrix = lab.matrix("production").unwrap();
    let start = std::time::Instant::now();
    matrix.run_all_open(&|_| {}).unwrap();
    println!("{} attempts in {:?}", matrix.cells.len(), start.elapsed());
    let shut = matrix.differences();
    assert!(
        shut.is_empty(),
        "{} of {} shut:\n{}",
        shut.len(),
        matrix.cells.len(),
        shut.join("\n")
    );
    assert_eq!(matrix.wrong_answers(), [] as [String; 0]);
}
